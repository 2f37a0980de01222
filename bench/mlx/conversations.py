"""What is asked of the models: each time a little different, so that no answer is known before."""

import base64
import json
import random
from collections.abc import Callable, Sequence
from io import BytesIO
from typing import Any

from PIL import Image

Conversation = list[dict[str, Any]]
Subject = Callable[[int], Conversation]
# It was tried with these: after 063 it ends soon.
_COUNTED = 63
_PICTURE_SIZE = (224, 224)


def counting(number: int) -> Conversation:
    """Ask for digits, which the tiny vision model goes on with until it is stopped.

    There are only so many of which it is known. Their beginnings are too short to be kept.
    """
    return [{"role": "user", "content": f"{number % _COUNTED:03d} count"}]


def story(number: int) -> Conversation:
    """Ask for more than anybody waits for.

    The number stands first, so that no two conversations share a beginning worth keeping.
    """
    return [
        {"role": "system", "content": f"{number:04d}. You tell long stories in great detail."},
        {"role": "user", "content": "Tell me the story of the railway from its beginning."},
    ]


def long_text(number: int, words: int) -> Conversation:
    """Ask about a text of so many words."""
    chosen = random.Random(number)  # noqa: S311 no secret
    text = " ".join(chosen.choice(("red", "blue", "green", "tell", "story")) for _ in range(words))
    return [{"role": "user", "content": f"{number:04d} {text} count"}]


def second_turn(first: Conversation, answer: str) -> Conversation:
    """Return the conversation as it goes on after an answer."""
    said = {"role": "assistant", "content": answer}
    return [*first, said, {"role": "user", "content": "count"}]


def picture(number: int) -> Conversation:
    """Ask about a picture of noise that nobody has seen before."""
    width, height = _PICTURE_SIZE
    noise = random.Random(number).randbytes(width * height * 3)  # noqa: S311 no secret
    file = BytesIO()
    Image.frombytes("RGB", _PICTURE_SIZE, noise).save(file, "PNG")
    address = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    content = [
        {"type": "image_url", "image_url": {"url": address}},
        {"type": "text", "text": "What colour is this?"},
    ]
    return [{"role": "user", "content": content}]


def body(model: str, messages: Sequence[dict[str, Any]], tokens: int) -> bytes:
    """Return a request for a greedy, streamed answer of at most so many tokens."""
    asked = {
        "model": model,
        "messages": messages,
        "temperature": 0,
        "max_tokens": tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    return json.dumps(asked).encode()
