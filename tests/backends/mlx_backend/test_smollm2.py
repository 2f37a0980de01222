from pathlib import Path

import httpx2
import pytest

from tests.backends.mlx_backend.child import TOKEN, backend
from tests.backends.mlx_backend.pictures import data_uri, encoded, question

pytestmark = pytest.mark.mlx


def test_a_real_model_knows_france(smollm2_model: Path, tmp_path: Path) -> None:
    """SmolLM2 answers a question, and says that it sees no images."""
    arguments = ["--models-dir", str(smollm2_model.parent)]
    arguments += [f"--model-folder=smollm2={smollm2_model}"]
    headers = {"authorization": f"Bearer {TOKEN}"}
    with (
        backend(*arguments, log=tmp_path / "log") as child,
        httpx2.Client(base_url=child.url, headers=headers, trust_env=False, timeout=110) as http,
    ):
        body = {"model": "smollm2", "temperature": 0, "max_tokens": 12}
        messages = question("colour?", data_uri(encoded()))
        blind = http.post("/v1/chat/completions", json={**body, "messages": messages})
        assert blind.status_code == 400
        assert blind.json()["error"]["code"] == "capability_mismatch"
        parts = [{"type": "text", "text": "What is the capital of France?"}]
        messages = [{"role": "user", "content": parts}]
        answer = http.post("/v1/chat/completions", json={**body, "messages": messages})
        assert "Paris" in answer.json()["choices"][0]["message"]["content"]
