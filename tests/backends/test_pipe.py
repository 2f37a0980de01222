import asyncio
import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.pipe import JsonLines, PipeReader, PipeWriter
from tests.harness.children import until


async def test_chunks_then_the_end() -> None:
    """A reader hands on what arrives, and one empty chunk at the end."""
    read_end, write_end = os.pipe()
    got: list[bytes] = []
    reader = PipeReader(read_end, got.append)
    os.write(write_end, b"one")
    await until(lambda: got == [b"one"])
    os.close(write_end)
    await until(lambda: got == [b"one", b""])
    reader.close()


async def test_closing_a_reader_stops_it() -> None:
    """A closed reader calls nobody, and closing it again does nothing."""
    read_end, write_end = os.pipe()
    got: list[bytes] = []
    reader = PipeReader(read_end, got.append)
    os.write(write_end, b"late")
    reader.close()
    reader.close()
    await asyncio.sleep(0.01)
    assert got == []
    os.close(write_end)


async def test_a_writer_never_waits() -> None:
    """More than a pipe holds is written as the reader makes room, in order."""
    read_end, write_end = os.pipe()
    writer = PipeWriter(write_end)
    data = os.urandom(1 << 20)
    writer.write(data[:100_000])
    writer.write(data[100_000:])
    got = bytearray()
    reader = PipeReader(read_end, got.extend)
    await until(lambda: len(got) == len(data))
    assert bytes(got) == data
    writer.close()
    writer.close()
    reader.close()


async def test_nobody_reads() -> None:
    """A writer whose reader is gone closes itself and takes further bytes without a word."""
    read_end, write_end = os.pipe()
    writer = PipeWriter(write_end)
    os.close(read_end)
    writer.write(b"x")
    writer.write(b"y")
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(write_end)


@settings(max_examples=30)
@given(st.lists(st.dictionaries(st.text(), st.integers(), max_size=3), max_size=5), st.data())
def test_objects_come_out_however_they_are_cut(
    objects: list[dict[str, int]], data: st.DataObject
) -> None:
    """Any cut of the bytes yields the same objects."""
    stream = b"".join(json.dumps(item).encode() + b"\n" for item in objects)
    lines = JsonLines()
    got: list[dict[str, int]] = []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        got += lines.feed(stream[:size])
        stream = stream[size:]
    assert got == objects


def test_what_is_no_object_is_skipped() -> None:
    """Noise, other JSON, depth and endless lines do no harm to the objects between them."""
    lines = JsonLines(limit=100)
    noise = b"\xff\n[1]\nnull\n" + b"[" * 100_000 + b"\n" + b'{"a": 1}\n'
    assert list(lines.feed(noise)) == [{"a": 1}]
    assert list(lines.feed(b"x" * 101)) == []
    assert list(lines.feed(b'{"b": 2}\n')) == [{"b": 2}]
