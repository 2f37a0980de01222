"""Print the lock that this platform can install: `mlx` where MLX has wheels, else `core`.

Runs before anything is installed, so it uses the standard library only.
"""

import platform
import sys


def lock_for(system: str, machine: str, libc: tuple[str, str], macos: str) -> str:
    """Return the lock for a platform described by plain facts.

    `libc` is what `platform.libc_ver()` gives, `macos` the macOS version or "".
    """
    if system == "Linux" and machine in {"x86_64", "aarch64"} and libc[0] == "glibc":
        return "mlx" if _version(libc[1]) >= (2, 35) else "core"
    if system == "Darwin" and machine == "arm64":
        return "mlx" if _version(macos) >= (14,) else "core"
    return "core"


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdigit())


if __name__ == "__main__":
    sys.stdout.write(
        lock_for(platform.system(), platform.machine(), platform.libc_ver(), platform.mac_ver()[0])
        + "\n"
    )
