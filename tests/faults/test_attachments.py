"""Sound, films and files that a request names lead no server near us anywhere."""

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.harness.running_router import openai_provider, running_router
from tests.harness.scripted_upstream import ScriptedUpstream

DATA = base64.b64encode(b"RIFF" + bytes(40)).decode()
HEARS = {"audio": True, "video": True, "file": True}
PARTS: dict[str, Callable[[str], dict[str, Any]]] = {
    "video": lambda at: {"type": "video_url", "video_url": {"url": at}},
    "sound": lambda at: {"type": "input_audio", "input_audio": {"data": at, "format": "wav"}},
    "sound by address": lambda at: {"type": "audio_url", "audio_url": {"url": at}},
    "file": lambda at: {"type": "file", "file": {"filename": "a", "file_data": at}},
}


def settings(fm: ScriptedUpstream, **cloud: Any) -> dict[str, Any]:
    providers = {"fm": openai_provider(fm.url, locality="local")}
    if cloud:
        providers["cloud"] = {"kind": "openai", "base_url": "http://cloud.example/v1", **cloud}
    return {
        "providers": providers,
        "capabilities": {
            "text": {
                "models": [f"{name}/m" for name in providers],
                "allow_remote_fallback": True,
            }
        },
        "models": {f"{name}/m": {"capabilities": HEARS} for name in providers},
    }


def asks(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, *parts]}]}


@pytest.mark.parametrize("kind", PARTS)
async def test_a_server_near_us_gets_no_address_and_no_path(tmp_path: Path, kind: str) -> None:
    """It is refused by its place, and nobody is asked; what is sent whole passes as it is."""
    made = PARTS[kind]
    async with (
        ScriptedUpstream() as inner,
        ScriptedUpstream() as fm,
        running_router(tmp_path, **settings(fm)) as signalbox,
    ):
        for at in (f"{inner.url}/a.wav", "https://a.example/a.wav", "/etc/passwd1", "file:///a"):
            answer = await signalbox.chat(asks(made(at)))
            error = answer.json()["error"]
            assert (answer.status_code, error["code"]) == (400, "file_url_not_allowed"), error
            assert error["param"].startswith("messages[0].content[1].")
            assert at not in error["message"]
        assert (fm.connections, inner.connections) == (0, 0)
        for data in (DATA, f"data:audio/wav;base64,{DATA}"):
            answer = await signalbox.chat(asks(made(data)))
            assert answer.status_code == 200, answer.text
            assert fm.seen[-1].json["messages"] == asks(made(data))["messages"]


async def test_a_cloud_fetches_for_itself(tmp_path: Path) -> None:
    """What is not for the server here goes to the next one, as it is; explain says so too."""
    async with (
        ScriptedUpstream() as fm,
        ScriptedUpstream() as proxy,
        running_router(
            tmp_path, **settings(fm, proxy=f"http://127.0.0.1:{proxy.port}")
        ) as signalbox,
    ):
        body = asks(PARTS["video"]("https://a.example/a.mp4"))
        answer = await signalbox.chat(body)
        assert answer.headers.get("x-signalbox-provider") == "cloud", answer.text
        assert answer.headers["x-signalbox-attempts"] == "1"
        told = await signalbox.client.post(
            "/admin/explain", json={"path": "/v1/chat/completions", "body": body}
        )
        assert "fm/m gets no address" in told.text, told.text
    assert fm.connections == 0
    assert proxy.seen[0].json["messages"] == body["messages"]
