"""What of sound, films and files is in a request, and what is only named there."""

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.capabilities import Dialect
from router.classification.attachments import is_inline, named_elsewhere
from router.classification.nesting import name_of

AT = "http://127.0.0.1/a"


def says(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(parts)}]}


@pytest.mark.parametrize(
    ("part", "places"),
    [
        ({"type": "video_url", "video_url": {"url": AT}}, ["video_url.url"]),
        ({"type": "video_url", "video_url": AT}, ["video_url"]),
        ({"type": "video", "video": AT}, ["video"]),
        ({"video_url": {"url": AT}}, ["video_url.url"]),
        ({"type": "audio_url", "audio_url": {"url": AT}}, ["audio_url.url"]),
        (
            {"type": "input_audio", "input_audio": {"data": AT, "format": "wav"}},
            ["input_audio.data"],
        ),
        ({"type": "input_audio", "input_audio": AT}, ["input_audio"]),
        ({"type": "file", "file": {"file_data": AT}}, ["file.file_data"]),
        ({"type": "file", "file": {"file_url": AT, "filename": "a.b"}}, ["file.file_url"]),
        ({"type": "file", "file": {"file_id": AT}}, ["file.file_id"]),
        ({"type": "file", "file": {"file_id": "file-1", "filename": "/a"}}, []),
        ({"type": "file", "file": {"file_data": "data:a/b;base64,AA=="}}, []),
        ({"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}, []),
        ({"type": "video_url", "video_url": None}, []),
        ({"type": "text", "text": AT}, []),
        ({"type": "image_url", "image_url": {"url": AT}}, []),
    ],
)
def test_parts_of_a_chat_name_things_in_many_ways(part: dict[str, Any], places: list[str]) -> None:
    """Each is found at its place; pictures are looked at elsewhere."""
    found = [name_of(place) for place in named_elsewhere(Dialect.CHAT, says({}, part))]
    assert found == [f"messages[0].content[1].{place}" for place in places]


@pytest.mark.parametrize(
    ("dialect", "body", "places"),
    [
        (
            Dialect.RESPONSES,
            {"input": [{"output": [{"type": "input_file", "file_url": AT}]}]},
            ["input[0].output[0].file_url"],
        ),
        (Dialect.RESPONSES, {"input": [{"type": "input_file", "file_data": "AAAA"}]}, []),
        (
            Dialect.MESSAGES,
            says({"type": "document", "source": {"type": "url", "url": AT}}),
            ["messages[0].content[0].source.url"],
        ),
        (Dialect.MESSAGES, says({"type": "document", "source": {"type": "text", "data": AT}}), []),
        (
            Dialect.MESSAGES,
            says({"type": "tool_use", "input": {"type": "document", "source": {"url": AT}}}),
            [],
        ),
        (None, {"input": [{"type": "input_file", "file_url": AT}]}, []),
        (Dialect.CHAT, {"messages": "a"}, []),
        (Dialect.CHAT, {"messages": ["a", {"content": "a"}]}, []),
    ],
)
def test_each_protocol_has_parts_of_its_own(
    dialect: Dialect | None, body: dict[str, Any], places: list[str]
) -> None:
    """At any depth where the protocol has them there; a tool's arguments are none."""
    assert [name_of(place) for place in named_elsewhere(dialect, body)] == places


@pytest.mark.parametrize(
    "text",
    [
        *("http://a", " http://a", "HTTPS://a", "file:///a", "//a.example/abcd", "ftp:a"),
        *("/etc/passwd1", "\n/etc/passwd1", "a.wav", "../a", "~/a", "C:\\a", "abc", "a=bc"),
        *("/" + "a" * 4095, "http://" + "a" * 5000),
    ],
)
def test_addresses_and_paths_are_no_content(text: str) -> None:
    """Also those that are spelled in the letters of base64."""
    assert not is_inline(text)


@given(st.binary(max_size=200), st.sampled_from(["", "data:audio/wav;base64,", "DATA:,"]))
def test_content_is_what_it_is(data: bytes, head: str) -> None:
    """In base64, in lines too, and as a data: URI, but for what begins as a path from the root."""
    text = base64.b64encode(data).decode()
    assert is_inline(head + text) is not (head + text).startswith("/")
    assert is_inline(head + base64.encodebytes(data).decode()) is not (head + text).startswith("/")


def test_no_path_is_as_long_as_sound() -> None:
    """MPEG's frames begin with `//` in base64."""
    assert is_inline(base64.b64encode(b"\xff\xfb\x90" * 2000).decode())
