"""Fields and names that would lead a request elsewhere, at every endpoint."""

from pathlib import Path
from typing import Any

import pytest

from router.capabilities import FAMILIES
from router.endpoints import ENDPOINTS
from tests.harness.asking import assert_error
from tests.harness.endpoints import REQUESTS, ask_endpoint, bound_to, form, serve_all
from tests.harness.running_router import openai_provider, running_router
from tests.harness.scripted_upstream import ScriptedUpstream

_PATHS = [*ENDPOINTS]
_MESSAGES = ("/v1/messages", "/v1/messages/count_tokens")


def _check(told: Any, path: str, status: int, code: str) -> None:
    """Check an error that is in the words of its endpoint's protocol."""
    if path in _MESSAGES:
        assert told.content.pop("type") == "error"
    assert_error(told, status, code)


@pytest.mark.parametrize("path", _PATHS)
@pytest.mark.parametrize("model", ["evil/repo", "org/name@main", "/etc/passwd", "none"])
async def test_row_14_an_unknown_model_is_nobodys(tmp_path: Path, path: str, model: str) -> None:
    """Nothing is called, started or fetched for a name that nobody knows."""
    async with (
        ScriptedUpstream(serve_all) as fm,
        running_router(tmp_path, **bound_to(fm)) as signalbox,
    ):
        told = await ask_endpoint(signalbox.port, path, model=model)
        _check(told, path, 404, "model_not_found")
        assert told.content["error"]["param"] == "model"
        assert fm.connections == 0


@pytest.mark.parametrize("path", _PATHS)
async def test_row_15_a_capability_of_nobody_is_named_with_what_to_do(
    tmp_path: Path, path: str
) -> None:
    """The error names the capability and the command, and is not worth a retry."""
    async with ScriptedUpstream(serve_all) as fm:
        settings = {**bound_to(fm), "capabilities": {}}
        async with running_router(tmp_path, **settings) as signalbox:
            told = await ask_endpoint(signalbox.port, path)
        _check(told, path, 404, "capability_not_assigned")
        capability = told.content["error"]["message"].rpartition("assign ")[2].split()[0]
        family = ENDPOINTS[path].requirement({}, max_images=0).levers[0]
        assert capability == family
        assert fm.connections == 0


@pytest.mark.parametrize("path", [each for each in _PATHS if ENDPOINTS[each].dialect is None])
async def test_row_15_text_is_no_other_family(tmp_path: Path, path: str) -> None:
    """What serves chat is not asked for what only its own capability stands for."""
    async with ScriptedUpstream(serve_all) as fm:
        settings = {**bound_to(fm), "capabilities": {"text": ["fm/m"]}}
        async with running_router(tmp_path, **settings) as signalbox:
            told = await ask_endpoint(signalbox.port, path)
    if set(ENDPOINTS[path].requirement({}, max_images=0).levers) & FAMILIES:
        assert_error(told, 404, "capability_not_assigned")
    else:
        assert told.status == 200


@pytest.mark.parametrize("path", _PATHS)
async def test_row_16_absurd_numbers_are_the_providers_to_refuse(tmp_path: Path, path: str) -> None:
    """They pass unchanged: what a model can do is not ours to say."""
    absurd = {"n": 16384, "max_tokens": 10**9, "dimensions": -1, "size": "9999999x1"}
    async with (
        ScriptedUpstream(serve_all) as fm,
        running_router(tmp_path, **bound_to(fm)) as signalbox,
    ):
        told = await ask_endpoint(signalbox.port, path, **absurd)
    assert told.status == 200
    if not ENDPOINTS[path].form:
        assert fm.seen[0].json.items() >= absurd.items()


def _picture(path: str, number: int) -> dict[str, Any]:
    kind = {"/v1/chat/completions": "image_url", "/v1/responses": "input_image"}.get(path, "image")
    turns = [{"role": "user", "content": [{"type": kind}] * number}]
    return {"input" if path == "/v1/responses" else "messages": turns}


@pytest.mark.parametrize("path", [each for each in _PATHS if ENDPOINTS[each].dialect is not None])
async def test_row_16_pictures_are_counted_in_every_dialect(tmp_path: Path, path: str) -> None:
    """One more than limits.images is refused before anybody is asked."""
    async with (
        ScriptedUpstream(serve_all) as fm,
        running_router(tmp_path, **bound_to(fm), limits={"images": 3}) as signalbox,
    ):
        told = await ask_endpoint(signalbox.port, path, **_picture(path, 4))
        _check(told, path, 400, "too_many_images")
        assert fm.connections == 0
        assert (await ask_endpoint(signalbox.port, path, **_picture(path, 3))).status == 200


@pytest.mark.parametrize("path", _PATHS)
async def test_row_17_no_field_leads_a_request_or_our_key_elsewhere(
    tmp_path: Path, path: str
) -> None:
    """They go to the provider as any unknown field does; its address and our key stay."""
    async with ScriptedUpstream(serve_all) as attacker, ScriptedUpstream(serve_all) as fm:
        told_to = {
            "api_base": attacker.url,
            "base_url": attacker.url,
            "api_key": "sk-evil",
            "custom_llm_provider": "evil",
            "extra_headers": {"authorization": "Bearer sk-evil", "x-evil": "1"},
            "headers": {"x-evil": "1"},
            "fallbacks": [{"model": "other/m", "api_base": attacker.url}],
            "callbacks": [attacker.url],
            "mock_response": "evil",
            "timeout": 0,
            "num_retries": 99,
            "n_discard": 9,
        }
        settings = bound_to(fm, api_key={"env": "KEY"})
        settings["providers"]["other"] = openai_provider(attacker.url)
        async with running_router(tmp_path, environ={"KEY": "k1"}, **settings) as signalbox:
            told = await ask_endpoint(
                signalbox.port, path, "authorization: Bearer theirs", model="auto", **told_to
            )
        assert told.status == 200
        assert attacker.connections == 0
        (seen,) = fm.seen
    assert seen.headers["authorization"] == "Bearer k1"
    assert seen.headers["host"] == f"127.0.0.1:{fm.port}"
    assert "x-evil" not in seen.headers
    sent = {**REQUESTS[path], "model": "m", **told_to}
    if ENDPOINTS[path].form:
        assert seen.body == form(sent)
    else:
        assert seen.json == sent
