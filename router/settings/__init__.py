"""Settings: `router.yaml`, SIGNALBOX_* and the command line, as one frozen tree.

`load` is the way in; `tree` holds the types, `sources` the places where they come from.
"""

from router.settings.loading import (
    FIXED,
    AccessKeys,
    access_keys,
    as_started,
    child_environment,
    load,
    load_server,
    reload,
)
from router.settings.sources import SettingsError, environment
from router.settings.tree import Server, Settings
from router.settings.unbuilt import refuse_unbuilt

__all__ = [
    "FIXED",
    "AccessKeys",
    "Server",
    "Settings",
    "SettingsError",
    "access_keys",
    "as_started",
    "child_environment",
    "environment",
    "load",
    "load_server",
    "refuse_unbuilt",
    "reload",
]
