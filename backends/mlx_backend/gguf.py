"""The header of a GGUF file: its metadata and where its tensors lie.

MLX's own reader maps the file and trusts every length and offset in it, so a truncated file ends
the process. This one checks them all and says what is wrong.
"""

import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
# A file may claim any count; these are far above what real models have.
_MOST_ENTRIES = 100_000
_MOST_ITEMS = 10_000_000
_MOST_DIMENSIONS = 4
_ARRAY_NESTING = 2
_DEFAULT_ALIGNMENT = 32

_SCALARS = {
    0: "<B",
    1: "<b",
    2: "<H",
    3: "<h",
    4: "<I",
    5: "<i",
    6: "<f",
    7: "<?",
    10: "<Q",
    11: "<q",
    12: "<d",
}
_STRING = 8
_ARRAY = 9

# Tensor types that MLX reads without loss: number → name, weights a block, bytes a block.
_TENSOR_TYPES = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    8: ("Q8_0", 32, 34),
    30: ("BF16", 1, 2),
}


class GgufError(ValueError):
    """The file is no GGUF file, is cut off, or holds what MLX cannot read."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of the file; `shape` is in row-major order, `begin` and `end` count bytes."""

    name: str
    type: str
    shape: tuple[int, ...]
    begin: int
    end: int

    def placed(self, base: int, file_size: int) -> "Tensor":
        """Return it moved by `base`; GgufError if it then ends behind the file."""
        end = base + self.end
        if end > file_size:
            raise GgufError(f"cut off: {self.name} ends at byte {end}, the file has {file_size}")
        return replace(self, begin=base + self.begin, end=end)


@dataclass(frozen=True, slots=True)
class Header:
    """What the head of a GGUF file says."""

    metadata: Mapping[str, object]
    tensors: tuple[Tensor, ...]

    def text(self, key: str, default: str | None = None) -> str:
        """Return a text of the metadata; GgufError if it is missing or no text."""
        value = self.metadata.get(key, default)
        if not isinstance(value, str):
            raise GgufError(f"the metadata has no text {key!r}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """Return a number of the metadata; GgufError if it is missing or no number."""
        value = self.metadata.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise GgufError(f"the metadata has no number {key!r}")
        return value

    def count(self, key: str, default: int | None = None) -> int:
        """Return a whole number ≥ 0 of the metadata; GgufError if it is missing or is not one."""
        value = self.number(key, default)
        if not isinstance(value, int) or value < 0:
            raise GgufError(f"the metadata's {key!r} is no count: {value!r}")
        return value

    def texts(self, key: str) -> list[str]:
        """Return a list of texts of the metadata; GgufError if it is missing or holds others."""
        value = self.metadata.get(key)
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise GgufError(f"the metadata has no list of texts {key!r}")
        return value

    def counts(self, key: str) -> list[int]:
        """Return a list of whole numbers of the metadata; GgufError if it is missing."""
        value = self.metadata.get(key)
        if not isinstance(value, list) or not all(isinstance(item, int) for item in value):
            raise GgufError(f"the metadata has no list of numbers {key!r}")
        return value


def read_header(path: Path) -> Header:
    """Read and check the header of a GGUF file.

    Raises GgufError for a file that is none, is cut off, contradicts itself or holds tensors of a
    type that MLX does not read; OSError when the file cannot be opened.
    """
    with path.open("rb") as file:
        if path.stat().st_size < len(_MAGIC) or file.read(len(_MAGIC)) != _MAGIC:
            raise GgufError(f"{path.name} is not a GGUF file")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            try:
                return _Reader(content).header()
            except struct.error:
                raise GgufError(f"{path.name} is cut off inside its header") from None
            except UnicodeDecodeError:
                raise GgufError(f"{path.name} holds a name or text that is not UTF-8") from None


class _Reader:
    """A position in a GGUF file; `struct.error` when it would leave the file."""

    def __init__(self, content: mmap.mmap) -> None:
        self._content = content
        self._at = len(_MAGIC)

    def header(self) -> Header:
        version = self._scalar("<I")
        if version not in _VERSIONS:
            raise GgufError(f"GGUF version {version} is not supported, only 2 and 3 are")
        tensors, entries = self._size(_MOST_ENTRIES), self._size(_MOST_ENTRIES)
        metadata: dict[str, object] = {}
        for _ in range(entries):
            key = self._text()
            metadata[key] = self._value(int(self._scalar("<I")), _ARRAY_NESTING)
        described = [self._tensor() for _ in range(tensors)]
        alignment = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
        if not isinstance(alignment, int) or alignment <= 0 or alignment & (alignment - 1):
            raise GgufError(f"the alignment {alignment!r} is not a power of two")
        base = -(-self._at // alignment) * alignment
        placed = [tensor.placed(base, len(self._content)) for tensor in described]
        if len({tensor.name for tensor in placed}) != len(placed):
            raise GgufError("two tensors have the same name")
        return Header(metadata, tuple(placed))

    def _scalar(self, layout: str) -> float:
        (value,) = struct.unpack_from(layout, self._content, self._at)
        self._at += struct.calcsize(layout)
        number: float = value
        return number

    def _size(self, most: int) -> int:
        size = int(self._scalar("<Q"))
        if size > most:
            raise GgufError(f"a count of {size} in the header is not credible")
        return size

    def _text(self) -> str:
        size = self._size(len(self._content))
        if self._at + size > len(self._content):
            raise struct.error
        text = self._content[self._at : self._at + size].decode()
        self._at += size
        return text

    def _value(self, kind: int, nesting: int) -> object:
        if kind in _SCALARS:
            return self._scalar(_SCALARS[kind])
        if kind == _STRING:
            return self._text()
        if kind == _ARRAY and nesting:
            item = int(self._scalar("<I"))
            return [self._value(item, nesting - 1) for _ in range(self._size(_MOST_ITEMS))]
        raise GgufError(f"the metadata holds a value of an unknown type {kind}")

    def _tensor(self) -> "Tensor":
        name = self._text()
        dimensions = int(self._scalar("<I"))
        if not 0 < dimensions <= _MOST_DIMENSIONS:
            raise GgufError(f"tensor {name} claims {dimensions} dimensions")
        shape = tuple(int(self._scalar("<Q")) for _ in range(dimensions))
        kind, offset = int(self._scalar("<I")), int(self._scalar("<Q"))
        if kind not in _TENSOR_TYPES:
            known = ", ".join(known for known, _, _ in _TENSOR_TYPES.values())
            raise GgufError(f"tensor {name} has the unsupported type {kind} (supported: {known})")
        label, block, size = _TENSOR_TYPES[kind]
        weights = math.prod(shape)
        if not weights or shape[0] % block:
            raise GgufError(f"tensor {name} has the impossible shape {shape} for {label}")
        return Tensor(name, label, shape[::-1], offset, offset + weights // block * size)
