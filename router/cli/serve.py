"""`serve`: run the router in this process, and say what it can do once it answers."""

import platform
import sys
from contextlib import suppress

import psutil

from backends.catalogue import BUILTIN_MODELS
from router.app import serve
from router.capability_map import CapabilityMap
from router.cli.call import Call
from router.cli.welcome import Lever, Machine, welcome
from router.data_folder import DataFolder
from router.launch import has_mlx, model_folders
from router.settings import Settings


def run(call: Call) -> int:
    """Serve until told to stop; return the exit code."""
    settings = call.settings
    folders = model_folders(settings, call.environ, DataFolder(settings.data_folder))

    def announce(the_map: CapabilityMap, port: int) -> None:
        levers = [Lever(row.capability, row.models, row.state) for row in the_map.rows()]
        found = (model.alias for model in BUILTIN_MODELS if folders.find(model.alias) is not None)
        lines = welcome(call.url_at(port), this_machine(settings), levers, frozenset(found))
        # Whoever started us may not listen, and we serve all the same.
        with suppress(OSError):
            sys.stdout.write("\n".join(lines) + "\n")
            sys.stdout.flush()

    return serve(settings, announce)


def this_machine(settings: Settings) -> Machine:
    """Return what matters of the machine that we run on."""
    return Machine(
        system=platform.system(),
        processor=platform.machine(),
        macos=platform.mac_ver()[0],
        memory_mb=psutil.virtual_memory().total // 1_000_000,
        has_mlx=has_mlx(settings),
    )
