"""Pictures from folders of this machine that its owner named, and from nowhere else.

A path is walked from its root one component at a time, each opened without following a link: what
is swapped meanwhile is either opened as what it was or not at all. Who asks cannot tell what is
missing from what lies outside, or from what is no plain file: one text answers all.
"""

import os
import stat
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final
from urllib.parse import unquote_to_bytes

from router.errors import RouteFailed
from router.images.encoded import too_large

_SCHEME: Final = "file:"
# Whoever is meant by it: nobody, or this machine.
_HOSTS: Final = ("file:///", "file://localhost/")
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Opening a FIFO or a device must neither wait nor take a terminal.
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_MAX_PATH: Final = 4096
_PIECE: Final = 1 << 20


class _NotThereError(Exception):
    """Nothing that may be read is at this path."""


def not_found() -> RouteFailed:
    """Return what is said of every path at which no picture may be read, whatever the reason."""
    return RouteFailed(
        "image_not_found",
        "There is no picture to be read at this path. It must be absolute or a file:/// address, "
        "lead through no link into a folder of images.local_roots in router.yaml, and name a plain "
        "file with one name that the router may read. A picture itself is sent as a data: URI.",
    )


def too_slow_to_read(within_s: float) -> RouteFailed:
    """Return the refusal of a file that does not come in time."""
    return RouteFailed(
        "image_not_found",
        f"The picture was not read within {within_s:g} s: see whether what it lies on answers. A "
        "picture itself is sent as a data: URI.",
    )


def read_local(text: str, roots: Sequence[Path], max_bytes: int) -> bytes:
    """Return the bytes of a file below one of `roots`, named by its path or `file://` address.

    Blocks. Raises RouteFailed `image_not_found`, or `invalid_image` for one that is too large.
    """
    root, parts = place_of(text, roots)
    try:
        return _read(root, parts, max_bytes)
    except (_NotThereError, OSError) as error:
        raise not_found() from error.with_traceback(None)


def place_of(text: str, roots: Sequence[Path]) -> tuple[Path, list[bytes]]:
    """Return the root that a path lies below, and its components from there; nothing is opened.

    Looks where the roots lead, which may block. Raises RouteFailed `image_not_found`.
    """
    try:
        path = _path_of(text)
        for root in roots:
            if (parts := _below(path, root)) is not None:
                return root, parts
    except (_NotThereError, OSError, ValueError, RuntimeError):
        # The last two: no text that a path can have, nobody's home.
        pass
    raise not_found()


def _path_of(text: str) -> bytes:
    """Return the path as the system knows it."""
    if len(text) > _MAX_PATH:
        raise _NotThereError
    if text[: len(_SCHEME)].lower() == _SCHEME:
        rest = _SCHEME + text[len(_SCHEME) :]
        host = next((each for each in _HOSTS if rest.startswith(each)), None)
        if host is None or "?" in rest or "#" in rest:
            raise _NotThereError
        path = unquote_to_bytes(rest[len(host) - 1 :])
    elif text.startswith("~/"):
        path = os.fsencode(Path(text).expanduser())
    else:
        path = text.encode()
    if not path.startswith(b"/") or b"\0" in path:
        raise _NotThereError
    return path


def _below(path: bytes, root: Path) -> list[bytes] | None:
    """Return the components of a path below a root; None where it lies elsewhere.

    The root counts as it is written and as where it leads: it is its owner's, links and all.
    """
    parts = [part for part in path.split(b"/") if part not in {b"", b"."}]
    if b".." in parts:
        raise _NotThereError
    for each in dict.fromkeys((os.fsencode(root), os.path.realpath(os.fsencode(root)))):
        above = [part for part in each.split(b"/") if part]
        if len(parts) > len(above) and parts[: len(above)] == above:
            return parts[len(above) :]
    return None


def _read(root: Path, parts: list[bytes], max_bytes: int) -> bytes:
    with ExitStack() as opened:

        def keep(descriptor: int) -> int:
            opened.callback(os.close, descriptor)
            return descriptor

        here = keep(os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        for part in parts[:-1]:
            here = keep(os.open(part, _FOLDER, dir_fd=here))
        # A look before, so that no device is opened; what counts is what was opened.
        _check(os.stat(parts[-1], dir_fd=here, follow_symlinks=False))
        file = keep(os.open(parts[-1], _FILE, dir_fd=here))
        before = os.fstat(file)
        _check(before)
        if before.st_size > max_bytes:
            raise too_large(max_bytes)
        data = b"".join(_pieces(file, max_bytes + 1))
        if len(data) != before.st_size or os.fstat(file).st_mtime_ns != before.st_mtime_ns:
            # Somebody writes it: half of one picture and half of another is none. Within one tick
            # of the file system's clock that goes unseen, and does no harm: it is the same file.
            raise _NotThereError
        return data


def _check(status: os.stat_result) -> None:
    """Let a plain file pass that has this name alone: another may be a file of elsewhere."""
    if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
        raise _NotThereError


def _pieces(file: int, size: int) -> Iterable[bytes]:
    while size > 0 and (piece := os.read(file, min(size, _PIECE))):
        yield piece
        size -= len(piece)
