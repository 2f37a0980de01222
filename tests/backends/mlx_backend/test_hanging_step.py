import json
from pathlib import Path

import httpx2
import pytest

from tests.backends.mlx_backend.child import TOKEN, Child
from tests.backends.mlx_backend.pictures import question

pytestmark = pytest.mark.mlx

CHAT = "/v1/chat/completions"
# A second until it is noticed, then those that a server and a thread are given to end.
ENDS_S = 30


@pytest.mark.parametrize("stream", [True, False])
def test_a_step_that_hangs_ends_the_process(
    tiny_vision_model: Path, tmp_path: Path, *, stream: bool
) -> None:
    """Who was served hears of it, and the process gives up by itself, for another to begin."""
    arguments = ["--models-dir", str(tmp_path), f"--model-folder=tiny={tiny_vision_model}"]
    child = Child(
        *arguments,
        *("--token-deadline-s", "1"),
        log=tmp_path / "log",
        command=("-m", "tests.harness.hanging_backend", str(tmp_path / "marker")),
    )
    body = {"model": "tiny", "messages": question("Please count."), "temperature": 0}
    try:
        assert child.wait_ready() == {"ready": True}, child.log.read_text()
        headers = {"authorization": f"Bearer {TOKEN}"}
        with httpx2.Client(
            base_url=child.url, headers=headers, trust_env=False, timeout=ENDS_S
        ) as http:
            answer = http.post(CHAT, json={**body, "stream": stream})
        assert child.process.wait(ENDS_S) == 1
    finally:
        child.close()
    assert (tmp_path / "marker").exists()
    if stream:
        first, *_, last = [event for event in answer.text.split("\n\n") if event]
        assert json.loads(first.removeprefix("data: "))["choices"]
        error = json.loads(last.removeprefix("data: "))["error"]
    else:
        assert answer.status_code == 500
        assert answer.headers["x-should-retry"] == "false"
        error = answer.json()["error"]
    assert error["code"] == "generation_failed", error
    assert "a step has not ended for" in child.log.read_text()
