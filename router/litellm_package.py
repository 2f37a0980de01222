"""LiteLLM as it is installed: where it lies, which release it is, and the table that it brings.

Nothing here runs any of its code: importing it takes seconds and a hundred megabytes.
"""

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from router.litellm_table import Table, read_table

# What to do where it is missing.
HOW_TO_INSTALL: Final = "install it with: scripts/setup cloud"
# Releases that carried code which stole credentials; they are gone from the index, not from disks.
STOLE_KEYS: Final = frozenset({"1.82.7", "1.82.8", "1.107.0"})
_TABLE: Final = "model_prices_and_context_window_backup.json"
# Ten times what it has.
_MAX_BYTES: Final = 32_000_000


class NoLiteLLM(Exception):
    """LiteLLM is not here, or cannot be used; the text says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Package:
    """An installed LiteLLM."""

    folder: Path
    release: str


def find_package() -> Package:
    """Return the LiteLLM of this interpreter; NoLiteLLM where it has none that may be used."""
    spec = importlib.util.find_spec("litellm")
    places = None if spec is None else spec.submodule_search_locations
    if not places:
        raise NoLiteLLM(f"LiteLLM is not installed; {HOW_TO_INSTALL}")
    folder = Path(places[0])
    release = _release(folder)
    if release in STOLE_KEYS:
        raise NoLiteLLM(
            f"LiteLLM {release} stole credentials: remove it, change every key that this machine "
            f"held, and {HOW_TO_INSTALL}"
        )
    return Package(folder, release)


def _release(folder: Path) -> str:
    """Return the version that stands beside a package; its own modules are not asked."""
    infos = sorted(folder.parent.glob("litellm-*.dist-info"))
    if not infos:
        return "of unknown age"
    return infos[-1].name.removeprefix("litellm-").removesuffix(".dist-info")


class Installed:
    """The LiteLLM of this interpreter, if it has one; its table is read once for each state."""

    def __init__(self) -> None:
        self._table: Table | None = None
        self._edition: tuple[Path, int, int] | None = None

    def __repr__(self) -> str:
        return f"<Installed {self._table!r}>"

    def find(self) -> Package:
        """Return where it is; NoLiteLLM where there is none that may be used."""
        return find_package()

    def table(self) -> Table:
        """Return its table; NoLiteLLM where there is none. Blocks, where it is a new one."""
        package = self.find()
        path = package.folder / _TABLE
        try:
            status = path.stat()
            edition = (path, status.st_mtime_ns, status.st_size)
            if self._table is None or edition != self._edition:
                self._table = read_table(_content(path, status.st_size), package.release)
                self._edition = edition
        except (OSError, ValueError) as error:
            raise NoLiteLLM(
                f"the table of LiteLLM {package.release} cannot be read: {error}"
            ) from error
        return self._table


def _content(path: Path, size: int) -> bytes:
    if size > _MAX_BYTES:
        raise ValueError(f"it has {size} bytes")
    return path.read_bytes()
