"""The data folder: made for its owner alone, and held by one router at a time."""

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self


class DataFolderError(Exception):
    """The data folder cannot be used; the text says why and what to do."""


class DataFolder:
    """A data folder, locked while entered. The lock ends with the process, however it ends."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: int | None = None

    def __repr__(self) -> str:
        return f"<DataFolder {'held' if self._lock is not None else 'free'}>"

    @property
    def database(self) -> Path:
        """The SQLite file of `store`."""
        return self.path / "signalbox.db"

    @property
    def egress(self) -> Path:
        """The SQLite file of `egress_ledger`."""
        return self.path / "egress.db"

    @property
    def models(self) -> Path:
        """Where downloaded models lie, one folder each."""
        return self.path / "models"

    @property
    def logs(self) -> Path:
        """Where the logs of local processes lie."""
        return self.path / "logs"

    @property
    def cache(self) -> Path:
        """What backends keep to save time; made by them, and safe to delete."""
        return self.path / "cache"

    @property
    def keys(self) -> Path:
        """Where keys lie that were given at run time, where there is no keyring."""
        return self.path / "keys"

    @property
    def run(self) -> Path:
        """Where the records of running processes lie."""
        return self.path / "run"

    def __enter__(self) -> Self:
        """Make the folder where it is missing and lock it.

        Raises DataFolderError when it cannot be written, or when another router holds it.
        """
        try:
            for folder in (self.path, self.models, self.logs, self.run):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Close-on-exec is Python's default: no child can keep the lock beyond our end.
            lock = os.open(self.path / "router.lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise DataFolderError(
                f"The data folder {self.path} cannot be used: {error.strerror}. "
                "Choose another one with --data-dir."
            ) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise DataFolderError(
                f"Another Signalbox is running with the data folder {self.path}. "
                "Stop it first, or choose another folder with --data-dir."
            ) from None
        except OSError as error:
            os.close(lock)
            raise DataFolderError(
                f"The data folder {self.path} cannot be locked: {error.strerror}. "
                "Choose one on a local disk with --data-dir."
            ) from error
        self._lock = lock
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Unlock the folder."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
