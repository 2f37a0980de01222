import json
import os
import shutil
import time
from pathlib import Path

import httpx2
import pytest

from tests.backends.mlx_backend.child import TOKEN, Child
from tests.backends.mlx_backend.pictures import question

pytestmark = pytest.mark.mlx

CHAT = "/v1/chat/completions"
# Far more than a second until it is noticed.
ENDS_S = 30
# Once it is noticed and told, nothing is waited for.
ENDS_AT_ONCE_S = 2


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
            assert child.process.wait(ENDS_AT_ONCE_S) == 1
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
    last_line = child.log.read_text().splitlines()[-1]
    assert "a step has not ended for" in last_line, last_line


def test_a_load_that_hangs_ends_the_process(tiny_vision_model: Path, tmp_path: Path) -> None:
    """A disk that never answers: who waits for the model hears of it, and so does the log."""
    folder = tmp_path / "stuck"
    shutil.copytree(tiny_vision_model, folder)
    (folder / "model.safetensors").unlink()
    # Nobody ever writes to it, so opening it does not return.
    os.mkfifo(folder / "model.safetensors")
    arguments = ["--models-dir", str(tmp_path), f"--model-folder=stuck={folder}"]
    child = Child(*arguments, "--load-stall-s", "1", log=tmp_path / "log")
    body = {"model": "stuck", "messages": question("Please count.")}
    try:
        assert child.wait_ready() == {"ready": True}, child.log.read_text()
        headers = {"authorization": f"Bearer {TOKEN}"}
        with httpx2.Client(
            base_url=child.url, headers=headers, trust_env=False, timeout=ENDS_S
        ) as http:
            begun = time.monotonic()
            answer = http.post(CHAT, json=body)
            assert time.monotonic() - begun >= 1
            assert child.process.wait(ENDS_AT_ONCE_S) == 1
    finally:
        child.close()
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (503, "model_load_failed")
    assert "loading stuck has not gone on for 1 s" in error["message"]
    last_line = child.log.read_text().splitlines()[-1]
    assert "loading stuck has not gone on for 1 s (phase preparing, 0 %)" in last_line, last_line
