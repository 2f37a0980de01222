"""Keyrings of a test: real backends of the library, in the order that a person may meet them."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import keyring
from keyring.backend import KeyringBackend
from keyring.backends.fail import Keyring as NoKeyring
from keyring.errors import KeyringLocked


class OpenKeyring(KeyringBackend):
    """Holds what it is given."""

    priority = 1

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # the library's
        self._kept: dict[tuple[str, str], str] = {}

    def get_password(self, service: str, username: str) -> str | None:
        """Return what is kept under a name."""
        return self._kept.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        """Keep it."""
        self._kept[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        """Forget it."""
        del self._kept[service, username]


class FailingKeyring(OpenKeyring):
    """Raises instead of answering."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._error = error

    def get_password(self, service: str, username: str) -> str | None:  # noqa: ARG002 the library's
        """Fail."""
        raise self._error


def locked() -> FailingKeyring:
    """Return a keyring whose password nobody types."""
    return FailingKeyring(KeyringLocked("Failed to unlock the collection!"))


def broken() -> FailingKeyring:
    """Return a keyring whose service has gone away."""
    return FailingKeyring(ConnectionError("no bus; sk-CANARY"))


def absent() -> KeyringBackend:
    """Return what the library has where there is no keyring."""
    return NoKeyring()  # type: ignore[no-untyped-call]  # the library's


class SlowKeyring(OpenKeyring):
    """Asks a person, who does not answer before `gate` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()

    def get_password(self, service: str, username: str) -> str | None:
        """Wait for the person."""
        self.gate.wait(10)
        return super().get_password(service, username)


@contextmanager
def using(backend: KeyringBackend) -> Iterator[None]:
    """Make a backend the machine's keyring; afterwards there is none."""
    keyring.set_keyring(backend)
    try:
        yield
    finally:
        keyring.set_keyring(absent())
