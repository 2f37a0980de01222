"""Remembers which models passed the self-test, so that it is done once and not at each load.

A test counts for what was tested, to the byte: another version of a library, another device, a file
of the model that was touched, or other code of this backend make it another test.
"""

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

log = logging.getLogger(__name__)

# Whose code the result depends on; MLX's own part for a GPU is a package of its own.
_LIBRARIES = ("mlx", "mlx-metal", "mlx-cuda-12", "mlx-cuda-13", "mlx-vlm")
_KEPT = 100


def library_versions() -> dict[str, str]:
    """Return the versions of the libraries that are installed."""
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def describe_test(folder: Path, versions: Mapping[str, str], circumstances: str) -> str:
    """Return what stands for testing the model in this folder, now and under these circumstances.

    Files of the model are told apart by size and time, not read; links that lead nowhere are none.
    OSError where one cannot be looked at.
    """
    stats = [(path.name, path.stat()) for path in sorted(folder.iterdir()) if path.exists()]
    files = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
    code = [path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py"))]
    told = [str(folder), files, dict(versions), circumstances, _digest(b"".join(code))]
    return _digest(json.dumps(told, sort_keys=True).encode())


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class PassedTests:
    """The tests that were passed, kept in the file at `path`; None: they are forgotten.

    A file that cannot be read counts as empty, one that cannot be written is no failure: then the
    model is tested again.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def __repr__(self) -> str:
        return f"<PassedTests {'forgotten' if self._path is None else len(self._read())}>"

    def __contains__(self, test: str) -> bool:
        return test in self._read()

    def add(self, test: str) -> None:
        """Remember a test; of very many the oldest are forgotten."""
        if self._path is None:
            return
        tests = [each for each in self._read() if each != test]
        text = json.dumps([*tests, test][-_KEPT:], indent=1)
        # Whole or not at all, whatever happens meanwhile.
        draft = self._path.with_suffix(f".{os.getpid()}")
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            draft.write_text(text, encoding="utf-8")
            draft.replace(self._path)
        except OSError as error:
            log.warning("that a model passed its self-test could not be kept: %s", error.strerror)

    def _read(self) -> list[str]:
        if self._path is None:
            return []
        try:
            tests = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return []
        return tests if isinstance(tests, list) else []
