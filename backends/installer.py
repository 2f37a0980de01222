"""Fetch one file out of a Python package, through the installer that the environment has.

pip or uv ask the index that a person configured for them, through that person's proxy and with
that person's certificates; the hash in the requirement decides what they may bring.
"""

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

from backends.catalogue import Package
from backends.commands import Outcome, run_command

_WATCH_S = 0.2

# What an installer needs to reach a person's index; everything else stays with us.
_PASSED = frozenset(
    {"HOME", "PATH", "LANG", "LC_ALL", "NETRC", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"}
    | {"SYSTEMROOT", "LD_LIBRARY_PATH", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "USER"}
)
_PASSED_PREFIXES = ("PIP_", "UV_", "SSL_CERT_")
_PROXIES = frozenset({"http_proxy", "https_proxy", "all_proxy", "no_proxy"})
# These say where to install and what; here both are given.
_WITHHELD = frozenset(
    f"PIP_{name}"
    for name in ("TARGET", "PREFIX", "ROOT", "USER", "REQUIREMENT", "CONSTRAINT", "DRY_RUN")
) | {"UV_SYSTEM_PYTHON", "UV_CONSTRAINT", "UV_OVERRIDE"}


class DownloadError(Exception):
    """A model could not be fetched; `code` is one of `backends.wire`."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


async def install_package(
    package: Package,
    staging: Path,
    *,
    python: str,
    environment: Mapping[str, str],
    on_bytes: Callable[[int], None],
) -> Path:
    """Unpack a package below `staging` and return the file of it that is wanted.

    `on_bytes` hears how many bytes have arrived, where the installer lets that be seen. Raises
    DownloadError: `download_not_available` when nothing here can install or use the package,
    `download_failed` when the installer fails or the file does not have the hash.
    """
    inherited = child_environment(environment)
    installer = await _installer(python, inherited, staging)
    temporary, requirements = staging / "tmp", staging / "requirements.txt"
    temporary.mkdir()
    requirements.write_text(
        f"{package.requirement} --hash=sha256:{package.sha256}\n", encoding="utf-8"
    )
    command = [
        *installer,
        *("--no-deps", "--require-hashes", "--only-binary", ":all:"),
        *("--target", str(staging / "package"), "-r", str(requirements)),
    ]
    # The installer's temporary files are how its progress is seen.
    its = inherited | {"TMPDIR": str(temporary), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    async with _watched(temporary, on_bytes):
        outcome = await run_command(command, environment=its, folder=staging)
    if outcome.status or not (staging / "package" / package.file).is_file():
        raise DownloadError("download_failed", f"{package.requirement}: {_reason(outcome)}")
    return staging / "package" / package.file


def child_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return what a child that fetches or converts inherits."""
    return {
        name: value
        for name, value in environment.items()
        if (name in _PASSED or name.startswith(_PASSED_PREFIXES) or name.lower() in _PROXIES)
        and name not in _WITHHELD
    }


async def _installer(python: str, environment: Mapping[str, str], folder: Path) -> list[str]:
    """Return the command that installs a package, after checking that a conversion can run."""
    names = ("mlx", "tokenizers", "pip")
    probe = f"import importlib.util as u; print(*[n for n in {names!r} if u.find_spec(n)])"
    found = await run_command([python, "-I", "-c", probe], environment=environment, folder=folder)
    there = found.last_line.split() if not found.status else []
    if "mlx" not in there or "tokenizers" not in there:
        raise DownloadError(
            "download_not_available", f"{python} has no MLX, which makes the fetched file usable"
        )
    if "pip" in there:
        return [python, "-m", "pip", "install", "--no-input", "--progress-bar", "off"]
    if (uv := shutil.which("uv", path=environment.get("PATH"))) is not None:
        return [uv, "pip", "install", "--no-progress", "--python", python]
    raise DownloadError(
        "download_not_available",
        f"neither pip in {python} nor uv on PATH: install one of them ({python} -m ensurepip)",
    )


def _reason(outcome: Outcome) -> str:
    """Return the line in which an installer says what went wrong; pip's last line may be a hint."""
    said = [line.strip() for line in outcome.tail if line.strip().startswith(("ERROR:", "error:"))]
    return said[0] if said else outcome.last_line


@contextlib.asynccontextmanager
async def _watched(temporary: Path, on_bytes: Callable[[int], None]) -> AsyncIterator[None]:
    """Tell how many bytes of the wheel have arrived, where the installer shows them."""

    async def watch() -> None:
        while True:
            await asyncio.sleep(_WATCH_S)
            if arrived := _arrived(temporary):
                on_bytes(arrived)

    # Owned by this block, which ends it.
    watcher = asyncio.create_task(watch())  # noqa: TID251 see above
    try:
        yield
    finally:
        watcher.cancel()
        await asyncio.wait([watcher])


def _arrived(temporary: Path) -> int:
    """Return the size of the largest wheel that is being written, 0 when none is to be seen."""
    sizes = [0]
    for wheel in temporary.glob("*/*.whl"):
        with contextlib.suppress(FileNotFoundError):
            sizes.append(wheel.stat().st_size)
    return max(sizes)
