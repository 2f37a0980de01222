"""What stands for pictures while a chat is translated."""

import asyncio
import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.errors import Unasked
from router.stand_ins import StandIns, stand_ins

PICTURE = base64.b64encode(bytes(range(256))).decode()
HEAD = "data:image/png;base64,"
URI = HEAD + PICTURE


def _turn(*urls: object, role: str = "user", **more: Any) -> dict[str, Any]:
    parts = [{"type": "image_url", "image_url": url, **more} for url in urls]
    return {"role": role, "content": [{"type": "text", "text": "look"}, *parts]}


async def _put_back(taken: StandIns, chat: Any) -> Any:
    return json.loads(await taken.put_back(json.dumps(chat).encode()))


@pytest.mark.parametrize("cloud", ["anthropic", "gemini"])
async def test_a_picture_is_not_shown_to_who_translates(cloud: str) -> None:
    """What stands for it is short base64, is another each time, and is followed by the picture."""
    chat = {"messages": [_turn({"url": URI, "detail": "low"}, URI)]}
    taken = stand_ins(chat, cloud)
    _, first, second = chat["messages"][0]["content"]
    shown = [first["image_url"]["url"], second["image_url"]]
    assert not any(PICTURE in each for each in shown)
    assert len({*shown}) == 2
    assert all(base64.b64decode(each.removeprefix(HEAD), validate=True) for each in shown)
    assert PICTURE not in repr(taken)
    assert await _put_back(taken, chat) == {"messages": [_turn({"url": URI, "detail": "low"}, URI)]}


@given(st.lists(st.text(max_size=40), max_size=5))
def test_whatever_stands_in_a_picture_comes_out_as_it_went_in(texts: list[str]) -> None:
    """In whichever order; nothing in it ends the text that it stands in."""
    urls = [HEAD + text for text in (*texts, '"}],"more":[{"a":"\\')]
    chat = {"messages": [_turn(*urls)]}
    taken = stand_ins(chat, "anthropic")
    chat["messages"].reverse()
    chat["messages"][0]["content"].reverse()
    there = _turn(*urls)
    there["content"].reverse()
    assert asyncio.run(_put_back(taken, chat)) == {"messages": [there]}


@pytest.mark.parametrize(
    ("cloud", "url"),
    [
        # It signs what it has written.
        ("bedrock", URI),
        (None, URI),
        ("gemini", "https://picture.example/a;base64,b"),
        ("anthropic", "data:image/png,plain"),
        ("anthropic", HEAD),
        ("anthropic", "data:" + "a" * 300 + ";base64,AAAA"),
    ],
)
async def test_what_cannot_be_stood_for_stays(cloud: str | None, url: str) -> None:
    """Other clouds' pictures, addresses, and what LiteLLM will say is none."""
    chat = {"messages": [_turn(url)]}
    taken = stand_ins(chat, cloud)
    assert chat == {"messages": [_turn(url)]}
    assert await taken.put_back(b"as it is") == b"as it is"


def test_what_google_keeps_is_named_by_its_pictures() -> None:
    """A prompt that is kept under another name each time would be kept in vain."""
    turn = _turn(URI, cache_control={"type": "ephemeral"})
    chat = {"messages": [json.loads(json.dumps(turn))]}
    stand_ins(chat, "gemini")
    assert chat == {"messages": [turn]}
    stand_ins(chat, "anthropic")
    assert chat != {"messages": [turn]}


@pytest.mark.parametrize("times", [0, 2])
async def test_a_picture_that_is_not_there_exactly_once_is_told(times: int) -> None:
    """Which of them it is; nothing is sent without it."""
    chat = {"messages": [_turn("https://picture.example/", URI)]}
    taken = stand_ins(chat, "anthropic")
    stand_in = chat["messages"][0]["content"][2]["image_url"].removeprefix(HEAD)
    with pytest.raises(Unasked) as caught:
        await taken.put_back(json.dumps([stand_in] * times).encode())
    assert (caught.value.code, caught.value.param) == (
        "unsupported_parameter",
        "messages[0].content[2].image_url",
    )
