import subprocess
import sys
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import cast

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts/platform_lock.py"


def lock_for() -> Callable[[str, str, tuple[str, str], str], str]:
    """Load the script's function: scripts are no package."""
    spec = spec_from_file_location("platform_lock", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return cast("Callable[[str, str, tuple[str, str], str], str]", module.lock_for)


@pytest.mark.parametrize(
    ("system", "machine", "libc", "macos", "lock"),
    [
        ("Linux", "x86_64", ("glibc", "2.36"), "", "mlx"),
        ("Linux", "x86_64", ("glibc", "2.35"), "", "mlx"),
        ("Linux", "aarch64", ("glibc", "2.39"), "", "mlx"),
        ("Linux", "x86_64", ("glibc", "2.34"), "", "core"),
        ("Linux", "x86_64", ("glibc", "2.4"), "", "core"),
        ("Linux", "x86_64", ("", ""), "", "core"),  # musl tells nothing
        ("Linux", "riscv64", ("glibc", "2.39"), "", "core"),
        ("Linux", "armv7l", ("glibc", "2.39"), "", "core"),
        ("Darwin", "arm64", ("", ""), "14.0", "mlx"),
        ("Darwin", "arm64", ("", ""), "26.1", "mlx"),
        ("Darwin", "arm64", ("", ""), "13.7.1", "core"),
        ("Darwin", "x86_64", ("", ""), "15.1", "core"),
        ("Darwin", "arm64", ("", ""), "", "core"),
        ("Windows", "AMD64", ("", ""), "", "core"),
        ("FreeBSD", "amd64", ("", ""), "", "core"),
    ],
)
def test_a_platform_gets_the_lock_that_it_can_install(
    system: str, machine: str, libc: tuple[str, str], macos: str, lock: str
) -> None:
    """MLX where it has wheels, else the router alone."""
    assert lock_for()(system, machine, libc, macos) == lock


def test_the_script_says_the_lock_of_this_machine() -> None:
    """Run without anything installed, it prints one word."""
    told = subprocess.run(
        [sys.executable, "-I", "-S", str(SCRIPT)], capture_output=True, check=True, text=True
    )
    assert told.stdout in {"mlx\n", "core\n"}
