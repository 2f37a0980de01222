"""The pictures of a request on their way through a router."""

import asyncio
import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from router.body import BodyLimits, Buffered, decode
from router.capabilities import Capability, Dialect
from router.catalog import Kind, Locality, Model, Provider
from router.classification.pictures import references
from router.images.encoded import of_data_uri
from router.images.format import look_at
from router.images.pictures import Pictures
from router.images.rules import Rules
from router.images.sources import Sources
from router.resolver import Route
from tests.harness.asking import JSON_TYPE, Told, ask, post
from tests.harness.endpoints import ALL_DIALECTS, REQUESTS, serve_all
from tests.harness.pictures import (
    FETCHES,
    SHOWN,
    body_of,
    fetching,
    picture,
    seen_by,
    serves,
    shown,
    shows,
    small_network,
    uri_of,
    web,
)
from tests.harness.running_router import RunningRouter, openai_provider, running_router, save
from tests.harness.scripted_upstream import Conversation, ScriptedUpstream
from tests.harness.threads import threads_of

PICTURE = uri_of(picture())
BASE64 = base64.b64encode(picture()).decode()
SOURCE = {"type": "base64", "media_type": "image/png", "data": BASE64}


def _turn(part: Any) -> list[Any]:
    return [{"role": "user", "content": [part]}]


@pytest.mark.parametrize(
    ("path", "field", "part", "becomes"),
    [
        (
            "/v1/responses",
            "input",
            {"type": "input_image", "image_url": "URL", "detail": "low"},
            {"type": "input_image", "image_url": PICTURE, "detail": "low"},
        ),
        (
            "/v1/messages",
            "messages",
            {"type": "image", "source": {"type": "url", "url": "URL"}, "cache_control": {"a": 1}},
            {"type": "image", "source": SOURCE, "cache_control": {"a": 1}},
        ),
        (
            "/v1/messages/count_tokens",
            "messages",
            {"type": "tool_result", "content": [{"type": "image", "source": {"url": "URL"}}]},
            {"type": "tool_result", "content": [{"type": "image", "source": SOURCE}]},
        ),
        (
            "/v1/chat/completions",
            "messages",
            {"type": "image", "image": "URL"},
            {"type": "image", "image": PICTURE},
        ),
    ],
)
async def test_each_protocol_gets_a_picture_in_its_own_words(
    tmp_path: Path, path: str, field: str, part: Any, becomes: Any
) -> None:
    """An address becomes what the protocol has for the picture itself; all else stays."""
    async with (
        ScriptedUpstream(serve_all) as fm,
        web(serves(picture())) as outer,
        running_router(
            tmp_path, network=small_network(), **seen_by(fm, FETCHES, dialects=ALL_DIALECTS)
        ) as signalbox,
    ):
        url = f"http://{SHOWN}:{outer.port}/"
        given = json.loads(json.dumps(part).replace("URL", url))
        body = {**REQUESTS[path], "model": "vision", field: _turn(given), "odd": [1.5]}
        told = await post(signalbox.port, json.dumps(body).encode(), path)
        assert told.status == 200
        assert fm.seen[0].json == {**body, "model": "eyes", field: _turn(becomes)}


async def test_anthropics_base64_is_checked_as_well(tmp_path: Path) -> None:
    """Its type stands beside it."""
    async with (
        ScriptedUpstream(serve_all) as fm,
        running_router(tmp_path, **seen_by(fm, dialects=["messages"])) as signalbox,
    ):

        async def ask_with(**source: str) -> Told:
            image = {"type": "image", "source": {**SOURCE, **source}}
            body = {"model": "vision", "messages": _turn(image)}
            return await post(signalbox.port, json.dumps(body).encode(), "/v1/messages")

        assert (await ask_with()).status == 200
        for odd in ({"media_type": "image/jpeg"}, {"data": BASE64[:-1]}, {"media_type": ""}):
            told = await ask_with(**odd)
            assert (told.status, told.code) == (400, "invalid_image")
        assert len(fm.seen) == 1


async def _fails(conversation: Conversation) -> None:
    await conversation.answer(b'{"error":{"message":"busy"}}', 503)


async def test_a_picture_is_fetched_once_whoever_is_tried(tmp_path: Path) -> None:
    """Twice in a request and for two providers; a third, a cloud's, gets the address."""
    async with (
        ScriptedUpstream(_fails) as first,
        ScriptedUpstream(_fails) as second,
        ScriptedUpstream() as proxy,
        web(serves(picture())) as outer,
    ):
        settings: dict[str, Any] = {
            "providers": {
                "first": openai_provider(first.url),
                "second": openai_provider(second.url),
                "cloud": openai_provider(
                    "http://cloud.example/v1", proxy=f"http://127.0.0.1:{proxy.port}"
                ),
            },
            "capabilities": {
                "vision": {
                    "models": ["first/m", "second/m", "cloud/m"],
                    "allow_remote_fallback": True,
                }
            },
            "images": FETCHES,
            "retry": {"attempts": 2},
        }
        async with running_router(tmp_path, network=small_network(), **settings) as signalbox:
            url = f"http://{SHOWN}:{outer.port}/"
            answer = await signalbox.chat(shows(url, url))
            assert answer.headers["x-signalbox-provider"] == "cloud"
            assert "x-signalbox-shims" not in answer.headers
        assert shown(first.seen[0]) == shown(second.seen[0]) == [PICTURE, PICTURE]
        assert shown(proxy.seen[0]) == [url, url]
        assert len(outer.seen) == 1


async def test_an_address_goes_to_who_may_have_it(tmp_path: Path) -> None:
    """Where nothing is fetched, the cloud behind a local model serves, unasked before."""
    async with ScriptedUpstream() as fm, ScriptedUpstream() as proxy:
        settings: dict[str, Any] = {
            "providers": {
                "fm": openai_provider(fm.url),
                "cloud": openai_provider(
                    "http://cloud.example/v1", proxy=f"http://127.0.0.1:{proxy.port}"
                ),
            },
            "capabilities": {
                "vision": {"models": ["fm/m", "cloud/m"], "allow_remote_fallback": True}
            },
        }
        url = f"https://{SHOWN}/"
        async with running_router(tmp_path, **settings) as signalbox:
            answer = await signalbox.chat(shows(url))
            assert answer.headers["x-signalbox-provider"] == "cloud"
            assert answer.headers["x-signalbox-attempts"] == "1"
            assert fm.connections == 0
            # Who forbids that anything leaves is told by the first.
            answer = await signalbox.chat(shows(url), **{"x-signalbox-local-only": "true"})
            assert answer.json()["error"]["code"] == "image_url_not_allowed"


async def test_of_several_failures_the_first_is_told(tmp_path: Path) -> None:
    """What is wrong with a picture for the second does not hide what was wrong with the first."""
    async with ScriptedUpstream(_fails) as proxy, ScriptedUpstream() as fm:
        settings: dict[str, Any] = {
            "providers": {
                "fm": openai_provider(fm.url),
                "cloud": openai_provider(
                    "http://cloud.example/v1", proxy=f"http://127.0.0.1:{proxy.port}"
                ),
            },
            "capabilities": {"vision": ["cloud/m", "fm/m"]},
        }
        async with running_router(tmp_path, **settings) as signalbox:
            answer = await signalbox.chat(shows("data:image/heic;base64,AAAA"))
            assert (answer.status_code, answer.json()["error"]["message"]) == (503, "busy")
        assert fm.connections == 0


@pytest.mark.parametrize("where", ["request", "file", "binding"])
async def test_local_only_fetches_nothing(tmp_path: Path, where: str) -> None:
    """An address can carry away what a prompt says."""
    async with ScriptedUpstream() as fm, web(serves(picture())) as outer:
        settings = seen_by(fm, FETCHES)
        if where == "file":
            settings["local_only"] = True
        if where == "binding":
            settings["capabilities"]["vision"] = {"models": ["fm/eyes"], "local_only": True}
        header = {"x-signalbox-local-only": "true"} if where == "request" else {}
        async with running_router(tmp_path, network=small_network(), **settings) as signalbox:
            answer = await signalbox.chat(shows(f"http://{SHOWN}:{outer.port}/"), **header)
            assert (answer.status_code, answer.json()["error"]["code"]) == (
                403,
                "remote_not_allowed",
            )
            assert (await signalbox.chat(shows(PICTURE), **header)).status_code == 200
        assert outer.connections == 0


async def test_what_a_fetch_takes_is_not_our_own_time(tmp_path: Path) -> None:
    """The overhead that an answer tells is the router's."""

    async def script(conversation: Conversation) -> None:
        await asyncio.sleep(0.05)
        await serves(picture())(conversation)

    async with fetching(tmp_path, script) as (_fm, outer, signalbox):
        urls = [f"http://{SHOWN}:{outer.port}/{number}" for number in range(8)]
        answer = await signalbox.chat(shows(*urls))
        assert float(answer.headers["x-signalbox-overhead-ms"]) < 8 * 50


async def test_the_settings_of_pictures_change_while_requests_run(tmp_path: Path) -> None:
    """The next request goes by the file as it is now."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "cat.png").write_bytes(picture())
    async with ScriptedUpstream() as fm:
        settings = seen_by(fm)
        async with running_router(tmp_path, **settings) as signalbox:
            request = shows(f"{folder}/cat.png")
            assert (await signalbox.chat(request)).status_code == 400
            settings["images"] = {"local_roots": [str(folder)]}
            save(tmp_path, **settings)
            await signalbox.client.post("/admin/reload")
            assert (await signalbox.chat(request)).status_code == 200


async def test_a_file_does_not_leave_by_a_permission_that_is_gone(tmp_path: Path) -> None:
    """What waited for its turn is looked at once more before it goes."""
    (tmp_path / "cat.png").write_bytes(picture())
    asked, go = asyncio.Event(), asyncio.Event()

    async def script(conversation: Conversation) -> None:
        asked.set()
        await go.wait()
        await conversation.answer()

    async with ScriptedUpstream(script) as fm:
        settings = seen_by(fm, {"local_roots": [str(tmp_path)]}, locality="remote")
        settings["images"]["allow_local_files_to_cloud"] = True
        settings["lanes"] = {"fm": {"concurrency": 1, "reserve_high": 0}}
        async with running_router(tmp_path, **settings) as signalbox:
            first = asyncio.create_task(signalbox.chat(shows(PICTURE)))
            await asked.wait()
            second = asyncio.create_task(signalbox.chat(shows(f"{tmp_path}/cat.png")))
            await _queued(signalbox)
            settings["images"]["allow_local_files_to_cloud"] = False
            save(tmp_path, **settings)
            await signalbox.client.post("/admin/reload")
            go.set()
            assert (await first).status_code == 200
            assert (await second).status_code == 403
        assert len(fm.seen) == 1


async def _queued(signalbox: RunningRouter) -> None:
    """Return when a request waits for its turn."""
    async with asyncio.timeout(5):
        while not any(
            reach.admission and reach.admission.lane.waiting
            for reach in signalbox.router.reaches.values()
        ):
            await asyncio.sleep(0.005)


async def _explained(signalbox: RunningRouter, fields: dict[str, Any], **more: Any) -> Any:
    body = json.dumps({"body": fields, **more}).encode()
    return (
        await ask(signalbox.port, JSON_TYPE, method="POST", path="/admin/explain", body=body)
    ).content


async def test_explain_tells_who_may_show_a_picture_and_fetches_nothing(tmp_path: Path) -> None:
    """As a request finds it: the shim where there is one, and why a route is passed over."""
    async with ScriptedUpstream() as fm, web(serves(picture())) as outer:
        settings = seen_by(fm, FETCHES)
        settings["providers"]["cloud"] = openai_provider("http://cloud.example/v1")
        settings["capabilities"]["vision"] = {
            "models": ["fm/eyes", "cloud/eyes"],
            "allow_remote_fallback": True,
        }
        url = f"http://{SHOWN}:{outer.port}/"
        async with running_router(tmp_path, network=small_network(), **settings) as signalbox:
            told = await _explained(signalbox, shows(url))
            assert [(each["provider"], each["shims"]) for each in told["routes"]] == [
                ("fm", ["images"]),
                ("cloud", []),
            ]
            told = await _explained(signalbox, shows(PICTURE))
            assert [each["shims"] for each in told["routes"]] == [[], []]
            told = await _explained(signalbox, shows(url), local_only=True)
            assert told["error"]["code"] == "remote_not_allowed"
            assert not told["candidates"][0]["kept"]
            settings["images"] = {}
            save(tmp_path, **settings)
            await signalbox.client.post("/admin/reload")
            told = await _explained(signalbox, shows(url))
            assert [each["provider"] for each in told["routes"]] == ["cloud"]
            assert "remote_fetch" in told["candidates"][0]["why"]
            told = await _explained(signalbox, shows("/etc/passwd"))
            assert told["error"]["code"] == "image_not_found"
        assert (fm.connections, outer.connections) == (0, 0)


async def test_explain_opens_no_file_and_translates_what_it_would_become(tmp_path: Path) -> None:
    """A file that is named as no chat can name it, there or not, and one that none can be."""
    async with ScriptedUpstream() as fm:
        settings = seen_by(fm, {"local_roots": [str(tmp_path)]})
        async with running_router(tmp_path, **settings) as signalbox:

            async def asked(text: str) -> Any:
                part = {"type": "image", "source": {"type": "path", "path": text}}
                fields = {"max_tokens": 9, "messages": _turn(part)}
                return await _explained(signalbox, fields, path="/v1/messages")

            told = await asked(f"{tmp_path}/nowhere.png")
            assert told["error"] is None
            assert told["routes"][0]["shims"] == ["messages_to_chat", "images"]
            assert (await asked("/etc/passwd"))["error"]["code"] == "image_not_found"
            told = await _explained(signalbox, shows("data:image/png;base64,AAAA"))
            assert told["error"]["code"] == "invalid_image"


async def test_explain_ends_where_a_request_ends(tmp_path: Path) -> None:
    """A picture that none may show is what is told, whatever was wrong with the routes before."""
    (tmp_path / "cat.png").write_bytes(picture())
    async with ScriptedUpstream() as fm:
        settings = seen_by(fm, {"local_roots": [str(tmp_path)]})
        settings["providers"]["cloud"] = openai_provider("http://cloud.example/v1")
        settings["capabilities"]["vision"] = ["cloud/eyes", "fm/eyes"]
        async with running_router(tmp_path, **settings) as signalbox:
            request = shows(f"{tmp_path}/cat.png", "ftp://picture.example/")
            answer = await signalbox.chat(request)
            told = await _explained(signalbox, request)
        codes = {answer.json()["error"]["code"], told["error"]["code"]}
        assert codes == {"image_url_not_allowed"}
        first, second = (each["why"] for each in told["candidates"])
        assert "allow_local_files_to_cloud" in first
        assert "in no other way" in second


@pytest.mark.parametrize("is_large", [False, True])
@pytest.mark.parametrize("step", [decode, of_data_uri, look_at])
async def test_a_large_body_is_worked_on_beside_the_requests_of_others(
    tmp_path: Path, step: Callable[..., Any], is_large: bool
) -> None:
    """Each step over all of it runs in a thread; a small one is done sooner where it is."""
    uri = uri_of(picture() + bytes(300_000 * is_large))
    with threads_of(step) as found:
        async with ScriptedUpstream() as fm, running_router(tmp_path, **seen_by(fm)) as signalbox:
            answer = await post(signalbox.port, body_of(shows(uri)))
    assert answer.status == 200
    assert found == [is_large]


class Counting(Sources):
    """Sources that count what they check."""

    checked = 0

    async def check(self, text: str, media_type: str | None, rules: Rules) -> None:
        """Check, and count."""
        self.checked += 1
        await super().check(text, media_type, rules)


async def test_a_picture_is_checked_once_whoever_is_tried() -> None:
    """The second route gets the very body that came."""
    data = body_of(shows(PICTURE, PICTURE))
    body = decode(data, BodyLimits(len(data), 64, 1000))
    sources, buffered = Counting(), Buffered(0)
    with buffered.share() as share:
        pictures = Pictures(references(Dialect.CHAT, body.fields), body, share, sources)
        for name in ("first", "second"):
            provider = Provider(name, Kind.OPENAI, "http://127.0.0.1:1", Locality.LOCAL)
            route = Route(provider, Model(name, "m"), Capability.VISION, "named")
            assert await pictures.shown_to(route, Rules(), stays=True) is body
    assert sources.checked == 2
