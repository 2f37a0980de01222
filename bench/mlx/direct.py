"""mlx-vlm's own batch without a server around it: `python -m bench.mlx.direct MODEL_FOLDER PORT`.

POST `{"conversations": [[message, …], …], "tokens": n}` has it generate so many tokens for each
conversation, all in one `BatchGenerator`; it answers `{"seconds", "tokens", "prompt_tokens"}`.
Tokens are counted, not turned into text: this is what the model and its caches can do at most.
"""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import mlx.core as mx
from mlx_vlm.generate import BatchGenerator
from mlx_vlm.prompt_utils import apply_chat_template
from mlx_vlm.utils import load, prepare_inputs

Conversation = Sequence[Mapping[str, Any]]


class Direct:
    """A loaded model; everything happens on the thread that made it."""

    def __init__(self, folder: str) -> None:
        self._model, self._processor = load(folder)
        if mx.default_device().type == mx.DeviceType.cpu:
            # As the backend does: 16-bit floats are emulated there, more than ten times slower.
            self._model.set_dtype(mx.float32)
            mx.eval(self._model.parameters())
        tokenizer = getattr(self._processor, "tokenizer", self._processor)
        self._ends = set(tokenizer.stopping_criteria.eos_token_ids)

    def generate(self, conversations: Sequence[Conversation], tokens: int) -> dict[str, float]:
        """Generate greedily for all conversations at once; the time includes their prompts."""
        begun = time.perf_counter()
        batch = BatchGenerator(
            self._model.language_model,
            self._processor,
            stop_tokens=self._ends,
            completion_batch_size=len(conversations),
            # Several prompts at once lose the deeper features of pictures, and cost as much.
            prefill_batch_size=1,
            compute_logprobs=False,
        )
        prompts = [self._prompt(conversation) for conversation in conversations]
        ids = [prompt.pop("input_ids")[0].tolist() for prompt in prompts]
        batch.insert(ids, max_tokens=tokens, prompt_kwargs=prompts)
        generated = 0
        while batch.has_work:
            _, responses = batch.next()
            # The token that ends an answer is not counted by anybody.
            generated += sum(response.finish_reason != "stop" for response in responses)
        seconds = time.perf_counter() - begun
        batch.close()
        return {
            "seconds": seconds,
            "tokens": generated,
            "prompt_tokens": sum(map(len, ids)),
        }

    def _prompt(self, conversation: Conversation) -> dict[str, Any]:
        config = self._model.config
        text = apply_chat_template(self._processor, config, list(conversation), num_images=0)
        inputs = prepare_inputs(self._processor, prompts=text, add_special_tokens=False)
        ids = inputs["input_ids"]
        features = self._model.get_input_embeddings(ids, None, mask=mx.ones_like(ids))
        known = {key: value for key, value in features.to_dict().items() if value is not None}
        return {"input_ids": ids, **known}


def serve(folder: str, port: int) -> None:
    """Answer one request at a time until a signal ends this process."""
    direct = Direct(folder)

    class Answering(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer({"status": "ok"})

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
            self._answer(direct.generate(asked["conversations"], asked["tokens"]))

        def _answer(self, body: object) -> None:
            data = json.dumps(body).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", port), Answering) as server:
        server.serve_forever()


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
