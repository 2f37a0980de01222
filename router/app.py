"""The composition root: settings in, one running router out."""

import asyncio
import importlib.util
import logging
import secrets
import sys
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from urllib.parse import urlsplit

import uvloop

import backends
from backends.catalogue import ModelFolders
from backends.downloads import Downloads
from backends.process_manager import ProcessManager, ProcessSpec, ProcessTimeouts, RestartPolicy
from backends.wire import BackendEvent
from router.admission import Admission
from router.body import BodyLimits
from router.capability_map import CapabilityMap
from router.catalog import Kind, Provider
from router.data_folder import DataFolder, DataFolderError
from router.events import InFlight
from router.guard import App, Guard, Policy
from router.overrides import StoreError, read_overrides
from router.planes import ControlPlane, Planes
from router.proxy import Proxy, ProxyLimits
from router.reach import Deadlines, Reach
from router.server import BindError, Server, bind, stopped_by_signals
from router.settings import (
    Settings,
    SettingsError,
    access_keys,
    child_environment,
    environment,
    refuse_unbuilt,
)
from router.settings.tree import BuiltinProvider
from router.snapshot import Ground, survey
from router.upstream import Upstream

log = logging.getLogger(__name__)
_MB = 1 << 20
