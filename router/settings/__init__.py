"""Settings: `router.yaml`, SIGNALBOX_* and the command line, as one frozen tree.

`load` is the way in; `tree` holds the types, `sources` the places where they come from.
"""

from router.settings.loading import AccessKeys, access_keys, child_environment, load
from router.settings.sources import SettingsError, environment
from router.settings.tree import Settings
from router.settings.unbuilt import refuse_unbuilt

__all__ = [
    "AccessKeys",
    "Settings",
    "SettingsError",
    "access_keys",
    "child_environment",
    "environment",
    "load",
    "refuse_unbuilt",
]
