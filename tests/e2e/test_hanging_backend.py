import asyncio
import json
import sys
from pathlib import Path

import pytest

from tests.harness.served import served, tiny

pytestmark = pytest.mark.mlx

CHAT = "/v1/chat/completions"
BODY = {"model": "text", "messages": [{"role": "user", "content": "count"}], "temperature": 0}
BACK_S = 240


async def test_a_backend_that_hangs_is_started_again(
    tmp_path: Path, tiny_vision_model: Path
) -> None:
    """Its stream ends in an error, and the next process answers."""
    program = tmp_path / "python"
    script = f"{sys.executable} -m tests.harness.hanging_backend {tmp_path / 'marker'}"
    # Without `-m backends.mlx_backend`.
    program.write_text(f'#!/bin/sh\nshift 2\nexec {script} "$@" --token-deadline-s 1\n')
    program.chmod(0o700)
    settings = tiny(tiny_vision_model, python=str(program))
    async with (
        served(tmp_path, **settings, capabilities={"text": ["builtin/tiny"]}) as router,
        asyncio.timeout(BACK_S),
    ):
        answer = await router.client.post(CHAT, json={**BODY, "stream": True})
        first, *_, last = [event for event in answer.text.split("\n\n") if event]
        assert json.loads(first.removeprefix("data: "))["choices"]
        error = json.loads(last.removeprefix("data: "))["error"]
        assert error["code"] == "generation_failed", error
        while (await router.client.post(CHAT, json={**BODY, "max_tokens": 4})).status_code != 200:
            await asyncio.sleep(0.05)
        assert (await router.backend())["restarts"] == 1
