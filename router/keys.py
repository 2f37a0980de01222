"""References to secrets, and how they are read: `{env: NAME}`, `{keyring: NAME}`, `{file: PATH}`.

A configuration holds references only, never a key. What is read here goes to the one who asked and
nowhere else: no error text, `repr` or log line holds a key.
"""

import os
import queue
import secrets
import stat
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

_FORMS: Final = "{env: NAME}, {keyring: NAME} or {file: PATH}"
# Keys are short; a file that is longer is something else, named by mistake.
_MAX_KEY_BYTES: Final = 8192
# A keyring files our keys under this name: `keyring set signalbox NAME` stores one.
KEYRING_SERVICE: Final = "signalbox"
# Long enough to type a password, and no start hangs for longer.
_KEYRING_S: Final = 10.0
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


class KeyReferenceError(Exception):
    """A key reference cannot be followed; the text names the reference and what to do."""


class KeySource(StrEnum):
    """Where a key lies."""

    ENV = "env"
    KEYRING = "keyring"
    FILE = "file"


@dataclass(frozen=True, slots=True)
class KeyReference:
    """Names a key without holding it: `name` is a variable, a keyring entry or an absolute path."""

    source: KeySource
    name: str

    @classmethod
    def parse(cls, value: object) -> "KeyReference":
        """Read a reference as it stands in a configuration; ValueError says what is wrong.

        The text never repeats the value: a person who pasted the key itself must not find it in
        a log.
        """
        if isinstance(value, KeyReference):
            return value
        if not isinstance(value, Mapping):
            raise ValueError(  # noqa: TRY004 pydantic reports a ValueError with its path
                f"a key itself does not belong in this file; write a reference to it: {_FORMS}"
            )
        if len(value) != 1 or (source := str(next(iter(value)))) not in set(KeySource):
            raise ValueError(f"a key reference is exactly one of {_FORMS}")
        name = next(iter(value.values()))
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"{source}: a name must follow, as in {_FORMS}")
        if source == KeySource.FILE:
            name = _absolute(name)
        return cls(KeySource(source), name)

    def __str__(self) -> str:
        return f"{{{self.source}: {self.name}}}"


def _absolute(path: str) -> str:
    try:
        full = Path(path).expanduser()
    except RuntimeError as exc:
        raise ValueError("file: there is no home folder that ~ could stand for") from exc
    if not full.is_absolute():
        raise ValueError("file: the path must be absolute or start with ~")
    return str(full)


def resolve(
    reference: KeyReference, environ: Mapping[str, str], keyring_s: float = _KEYRING_S
) -> str | None:
    """Return the key that a reference names, or None where there is none.

    Raises KeyReferenceError where a key is there but must not be used: its file can be read by
    others, it cannot be read by us, or it does not look like a key; and where the system's keyring
    is absent, stays locked, or does not answer within `keyring_s` seconds.
    """
    if reference.source is KeySource.ENV:
        text = environ.get(reference.name, "")
    elif reference.source is KeySource.KEYRING:
        text = _from_keyring(reference, keyring_s)
    else:
        text = _read(reference)
    key = text.strip()
    if not _can_travel(key):
        raise KeyReferenceError(f"{reference}: this is not a key (blanks or odd characters in it)")
    return key or None


def check_key(text: str) -> str:
    """Return a key without the blanks around it; ValueError for what cannot be one."""
    key = text.strip()
    if not key or len(key) > _MAX_KEY_BYTES:
        raise ValueError("a key is due here")
    if not _can_travel(key):
        raise ValueError("this is not a key (blanks or odd characters in it)")
    return key


def _can_travel(key: str) -> bool:
    """Tell whether a header can hold a key: nothing else than visible ASCII may be in it."""
    return all("!" <= character <= "~" for character in key)


def keep(key: str, name: str, folder: Path, keyring_s: float = _KEYRING_S) -> KeyReference:
    """Keep a key in the system's keyring, else in a file of `folder`, under a name of its own.

    Blocks; returns the reference. Raises KeyReferenceError when neither takes it.
    """
    # Never a name that was there before: what is stored refers to the old key until it is replaced.
    entry = f"{name}-{secrets.token_hex(4)}"
    reference = KeyReference(KeySource.KEYRING, entry)
    try:
        _in_keyring(
            reference,
            lambda keyring: keyring.set_password(KEYRING_SERVICE, entry, key),
            keyring_s,
        )
    except KeyReferenceError:
        return _keep_in_file(key, folder / f"{entry}.key")
    return reference


def _keep_in_file(key: str, path: Path) -> KeyReference:
    reference = KeyReference(KeySource.FILE, str(path))
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(file, "wb") as out:
            out.write(key.encode("ascii"))
            out.flush()
            os.fsync(file)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as exc:
        forget(reference)
        raise KeyReferenceError(f"{path.parent} takes no key: {exc.strerror}") from exc
    return reference


def forget(reference: KeyReference, keyring_s: float = _KEYRING_S) -> None:
    """Delete a key that `keep` kept; blocks. One that is gone, or cannot be reached, is let be."""
    if reference.source is KeySource.FILE:
        with suppress(OSError):
            Path(reference.name).unlink()
        return
    with suppress(KeyReferenceError):
        _in_keyring(
            reference,
            lambda keyring: keyring.delete_password(KEYRING_SERVICE, reference.name),
            keyring_s,
        )


def _open(path: str, flags: int) -> int:
    # Without waiting, so that a pipe that nobody writes to does not hold us up.
    return os.open(path, flags | os.O_NONBLOCK)


def _read(reference: KeyReference) -> str:
    try:
        # Opened first and asked afterwards, so that what was checked is what is read.
        with open(reference.name, "rb", opener=_open) as file:
            facts = os.fstat(file.fileno())
            if not stat.S_ISREG(facts.st_mode):
                raise KeyReferenceError(f"{reference}: this is not a file")
            if facts.st_mode & _OTHERS:
                mode = stat.S_IMODE(facts.st_mode)
                raise KeyReferenceError(
                    f"{reference}: others can read this key (mode {mode:04o}): "
                    f"chmod 600 {reference.name}"
                )
            raw = file.read(_MAX_KEY_BYTES + 1)
    except FileNotFoundError:
        return ""
    except OSError as exc:
        raise KeyReferenceError(f"{reference}: {exc.strerror}") from exc
    if len(raw) > _MAX_KEY_BYTES:
        raise KeyReferenceError(f"{reference}: this is no key: over {_MAX_KEY_BYTES} bytes")
    return raw.decode("ascii", errors="replace")


def _from_keyring(reference: KeyReference, within_s: float) -> str:
    """Return what the keyring has, or nothing."""
    return _in_keyring(
        reference,
        lambda keyring: keyring.get_password(KEYRING_SERVICE, reference.name) or "",
        within_s,
    )


def _in_keyring(reference: KeyReference, use: Callable[[Any], str | None], within_s: float) -> str:
    """Use the system's keyring in a thread that may be left behind: it may wait for a person."""
    answers: queue.SimpleQueue[str | KeyReferenceError] = queue.SimpleQueue()

    def ask() -> None:
        # What a backend raises beyond the library's own errors is printed by the thread.
        answer: str | KeyReferenceError = KeyReferenceError(f"{reference}: the keyring failed")
        try:
            answer = _ask_keyring(reference, use)
        finally:
            answers.put(answer)

    threading.Thread(target=ask, name="keyring", daemon=True).start()
    try:
        answer = answers.get(timeout=within_s)
    except queue.Empty:
        raise KeyReferenceError(
            f"{reference}: the keyring did not answer within {within_s:g} s. Unlock it before the "
            "start, or use {env: NAME} or {file: PATH}"
        ) from None
    if isinstance(answer, KeyReferenceError):
        raise answer
    return answer


def _ask_keyring(
    reference: KeyReference, use: Callable[[Any], str | None]
) -> str | KeyReferenceError:
    try:
        # Some hundred milliseconds, for those who keep a key there.
        import keyring  # noqa: PLC0415 see above
        from keyring import errors  # noqa: PLC0415 see above
    except ImportError:
        return KeyReferenceError(f"{reference}: the package keyring is not installed")
    try:
        return use(keyring) or ""
    except errors.NoKeyringError:
        return KeyReferenceError(
            f"{reference}: this machine has no keyring; use {{env: NAME}} or {{file: PATH}}"
        )
    except errors.KeyringLocked:
        return KeyReferenceError(f"{reference}: the keyring is locked; unlock it before the start")
    except (errors.KeyringError, OSError, RuntimeError) as exc:
        return KeyReferenceError(f"{reference}: the keyring failed: {type(exc).__name__}")
