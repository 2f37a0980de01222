from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backends.mlx_backend.gguf import GgufError, Header, read_header
from tests.harness.tiny_gguf import gguf, metadata

WHOLE = gguf()
HEAD = WHOLE.index(b"blk.0.ffn_down.weight") + 64

# Each example overwrites the same file.
same_folder = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def read(tmp_path: Path, content: bytes) -> Header:
    """Write a file and read its header."""
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    return read_header(path)


def test_whole_file_is_described(tmp_path: Path) -> None:
    """Metadata and the place of every tensor are read from a whole file."""
    header = read(tmp_path, WHOLE)
    assert header.text("general.architecture") == "llama"
    assert header.count("llama.block_count") == 1
    assert header.texts("tokenizer.ggml.tokens") == metadata()["tokenizer.ggml.tokens"]
    shapes = {tensor.name: tensor.shape for tensor in header.tensors}
    assert shapes["blk.0.ffn_down.weight"] == (32, 64)
    assert max(tensor.end for tensor in header.tensors) == len(WHOLE)


@pytest.mark.parametrize("key", ["general.architecture", "llama.block_count", "nowhere"])
def test_wrong_kind_of_value_is_named(tmp_path: Path, key: str) -> None:
    """A value that is missing or of another kind is refused by its key."""
    header = read(tmp_path, WHOLE)
    with pytest.raises(GgufError, match=key):
        header.texts(key)
    with pytest.raises(GgufError, match=key):
        (header.text if key == "llama.block_count" else header.count)(key)


@pytest.mark.parametrize("content", [b"", b"GG", b"PK\3\4" + WHOLE[4:], b"<html>not found</html>"])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    """A file without GGUF's first bytes is called no GGUF file."""
    with pytest.raises(GgufError, match="not a GGUF file"):
        read(tmp_path, content)


@same_folder
@given(length=st.integers(4, len(WHOLE) - 1))
def test_cut_off_file_is_refused(tmp_path: Path, length: int) -> None:
    """A file that ends early anywhere is refused as cut off."""
    with pytest.raises(GgufError, match=r"cut off|not credible"):
        read(tmp_path, WHOLE[:length])


@same_folder
@given(at=st.integers(4, HEAD), value=st.integers(0, 255))
def test_damaged_header_never_escapes(tmp_path: Path, at: int, value: int) -> None:
    """Any changed byte in the header gives a header or a GgufError, nothing else."""
    damaged = bytearray(WHOLE)
    damaged[at] = value
    try:
        header = read(tmp_path, bytes(damaged))
    except GgufError:
        return
    assert all(0 <= tensor.begin < tensor.end <= len(damaged) for tensor in header.tensors)
