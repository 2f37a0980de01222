"""Whatever runs beside it, an answer over HTTP is the one that it is alone."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx2
import pytest

from tests.backends.mlx_backend.child import TOKEN, Child, backend
from tests.backends.mlx_backend.mixed import CALL_TOKEN, Answer, ask, every_kind, leave

pytestmark = pytest.mark.mlx

TEXT_TOKENS = 24
# A model that knows few words spells a call letter by letter.
CALL_TOKENS = 64
LEAVING = 40


@pytest.fixture(scope="module")
def shipped_child(
    tiny_vision_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Child]:
    """Run a backend with the defaults that it is shipped with."""
    root = tmp_path_factory.mktemp("shipped")
    arguments = ["--models-dir", str(root), f"--model-folder=tiny={tiny_vision_model}"]
    with backend(*arguments, log=root / "log") as running:
        yield running


@pytest.fixture
async def shipped(shipped_child: Child) -> AsyncIterator[httpx2.AsyncClient]:
    """Return a client of it."""
    async with httpx2.AsyncClient(
        base_url=shipped_child.url,
        headers={"authorization": f"Bearer {TOKEN}"},
        trust_env=False,
        timeout=100,
        limits=httpx2.Limits(max_connections=300),
    ) as client:
        yield client
        health = (await client.get("/health")).json()
        assert (health["active"], health["queue"], health["engine"]) == (0, 0, "batched")


def test_the_token_of_a_call(tiny_vision_model: Path) -> None:
    """The requests that are led to a call name the right token."""
    tokenizer = json.loads((tiny_vision_model / "tokenizer.json").read_text())
    added = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    assert added["<tool_call>"] == CALL_TOKEN


def check_solo(solo: dict[str, Answer]) -> None:
    """Check that the requests are what their names say."""
    assert solo["red, text, greedy"].content == "This is red."
    assert {answer.reason for answer in solo.values()} == {"stop", "length", "tool_calls"}
    for name, answer in solo.items():
        if "required" in name or "led" in name:
            assert {call for call, _ in answer.calls} == {"paint"}, name
        if "schema" in name:
            assert answer.content.startswith('{"name":"'), name
        if "text, told" in name:
            # The token that ends an answer is no part of it.
            ended = answer.reason == "stop"
            assert len(answer.tokens) == answer.completion_tokens - ended, name
            assert len(answer.logprobs) == 4 * len(answer.tokens), name


@pytest.mark.timeout(240)
async def test_an_answer_is_the_same_in_any_company(shipped: httpx2.AsyncClient) -> None:
    """Every kind of request at once, in random order, some of them left: each answer as alone."""
    rng = random.Random(3)  # noqa: S311  a seed that repeats is the point
    kinds = every_kind(TEXT_TOKENS, CALL_TOKENS)
    solo = {
        name: await ask(shipped, body, stream=index % 2 == 0)
        for index, (name, body) in enumerate(kinds.items())
    }
    check_solo(solo)
    got: dict[str, Answer] = {}

    async def keep(name: str, priority: str, *, stream: bool) -> None:
        got[name] = await ask(shipped, kinds[name], stream=stream, priority=priority)

    leaving = rng.choices(list(kinds), k=LEAVING)
    arrivals = [(name, True) for name in kinds] + [(name, False) for name in leaving]
    rng.shuffle(arrivals)
    async with asyncio.TaskGroup() as tasks:
        for name, stays in arrivals:
            stream, priority = rng.random() < 0.5, rng.choice(["low", "low", "high"])
            if stays:
                tasks.create_task(keep(name, priority, stream=stream))
            else:
                after_s = rng.uniform(0, 2)
                tasks.create_task(leave(shipped, kinds[name], stream=stream, after_s=after_s))
            await asyncio.sleep(rng.choice([0, 0, 0.005, 0.05]))
    different = {
        name: (solo[name], got[name]) for name in kinds if not got[name].is_like(solo[name])
    }
    assert not different
