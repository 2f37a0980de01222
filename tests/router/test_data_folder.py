"""The data folder: private, and held by one router at a time."""

import stat
import subprocess
import sys
from pathlib import Path

import pytest

from router.data_folder import DataFolder, DataFolderError


def test_a_second_holder_is_refused_with_a_text_that_says_what_to_do(tmp_path: Path) -> None:
    """Two routers never share a folder; the first one is untouched."""
    with DataFolder(tmp_path / "data") as folder:
        with pytest.raises(DataFolderError, match="--data-dir"), DataFolder(folder.path):
            pass
        assert repr(folder) == "<DataFolder held>"
    with DataFolder(tmp_path / "data"):
        pass


def test_a_child_does_not_inherit_the_lock(tmp_path: Path) -> None:
    """A process started meanwhile cannot keep the folder beyond its router's end."""
    code = "import sys; print('up', flush=True); sys.stdin.read()"
    with DataFolder(tmp_path / "data"):
        child = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            close_fds=False,
        )
        with child:
            assert child.stdout is not None
            child.stdout.readline()
    with DataFolder(tmp_path / "data"):
        pass


def test_the_folder_and_all_in_it_are_for_their_owner_alone(tmp_path: Path) -> None:
    """Every folder and file that entering makes is private."""
    with DataFolder(tmp_path / "data") as folder:
        for path in (folder.path, *folder.path.iterdir()):
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path.name


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    """A file in the way is named in the error."""
    (tmp_path / "file").touch()
    with (
        pytest.raises(DataFolderError, match="cannot be used"),
        DataFolder(tmp_path / "file" / "data"),
    ):
        pass
