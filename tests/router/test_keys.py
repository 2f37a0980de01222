import os
from pathlib import Path

import pytest

from router.keys import KeyReference, KeyReferenceError, KeySource, resolve


def write_key(folder: Path, content: bytes, mode: int = 0o600) -> Path:
    """Write a key file."""
    path = folder / "key"
    path.write_bytes(content)
    path.chmod(mode)
    return path


@pytest.mark.parametrize(
    "value",
    [
        "sk-CANARY",
        5,
        None,
        [],
        {},
        {"env": ""},
        {"env": 5},
        {"enw": "A"},
        {"env": "A", "file": "B"},
    ],
)
def test_anything_but_one_of_the_three_forms_is_refused(value: object) -> None:
    """Only a reference is accepted, and its text never repeats what was written."""
    with pytest.raises(ValueError, match=r"\{env: NAME\}") as caught:
        KeyReference.parse(value)
    assert "CANARY" not in str(caught.value)


def test_a_path_must_be_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key file is the same one from wherever the router is started."""
    with pytest.raises(ValueError, match="must be absolute"):
        KeyReference.parse({"file": "key"})
    monkeypatch.setenv("HOME", str(tmp_path))
    assert KeyReference.parse({"file": "~/key"}).name == str(tmp_path / "key")


def test_a_variable_is_read_from_the_environment_given() -> None:
    """A variable that is unset or blank holds no key."""
    reference = KeyReference.parse({"env": "A"})
    assert resolve(reference, {"A": " sk-1\n"}) == "sk-1"
    assert resolve(reference, {"A": " "}) is None
    assert resolve(reference, {}) is None


def test_a_file_is_read_where_only_its_owner_can(tmp_path: Path) -> None:
    """A key file of mode 0600 is read; a missing or empty one holds no key."""
    path = write_key(tmp_path, b"sk-2\n")
    assert resolve(KeyReference(KeySource.FILE, str(path)), {}) == "sk-2"
    assert resolve(KeyReference(KeySource.FILE, str(tmp_path / "none")), {}) is None
    path.write_bytes(b"")
    assert resolve(KeyReference(KeySource.FILE, str(path)), {}) is None


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o777])
def test_a_file_that_others_can_read_is_refused(mode: int, tmp_path: Path) -> None:
    """The text tells the mode and the command that mends it, and not the key."""
    path = write_key(tmp_path, b"sk-CANARY", mode)
    with pytest.raises(KeyReferenceError, match=f"mode {mode:04o}.*chmod 600") as caught:
        resolve(KeyReference(KeySource.FILE, str(path)), {})
    assert "CANARY" not in str(caught.value)


@pytest.mark.parametrize("content", [b"a b", b"a\nb", b"\xff\xfe", "clé".encode(), b"x" * 9000])
def test_what_does_not_look_like_a_key_is_refused(content: bytes, tmp_path: Path) -> None:
    """A key travels in a header, so it is one word of visible ASCII."""
    path = write_key(tmp_path, content)
    with pytest.raises(KeyReferenceError, match="no"):
        resolve(KeyReference(KeySource.FILE, str(path)), {})


def test_a_folder_and_a_pipe_are_no_key_files(tmp_path: Path) -> None:
    """What is not a file is refused at once: a pipe that nobody writes to does not hold us up."""
    os.mkfifo(tmp_path / "pipe", 0o600)
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(KeyReferenceError, match=r"not a file|Is a directory"):
            resolve(KeyReference(KeySource.FILE, str(path)), {})
