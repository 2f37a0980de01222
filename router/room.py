"""Whether a model has room for a prompt: what surely has none is not sent there.

Nobody but a model's own tokenizer can count tokens, so a prompt is only ever said to be too long
where it would be at the most generous count.
"""

import math
from collections.abc import Mapping
from typing import Any

from router.catalog import Model
from router.endpoints import Endpoint
from router.errors import TOO_LONG, Refused
from router.resolver import Decision, without
from router.usage import Usage

# No model reads more of any language's text with one token, on the average: it is 4 in English.
CHARACTERS_A_TOKEN = 8
_RAISE_WINDOW = (
    "Shorten it, or raise Ollama's window: OLLAMA_CONTEXT_LENGTH in its environment, or PARAMETER "
    "num_ctx in the model's Modelfile."
)


class Prompt:
    """The prompt of one request, looked through only where its `size` leaves room for doubt.

    `size` is that of the whole body in bytes, which is no less than its characters.
    """

    __slots__ = ("_endpoint", "_fields", "_least", "size")

    def __init__(
        self, endpoint: Endpoint, fields: Mapping[str, Any], size: float = math.inf
    ) -> None:
        self.size = size
        self._endpoint = endpoint
        self._fields = fields
        self._least: int | None = None

    def __repr__(self) -> str:
        return f"<Prompt in {self.size} bytes>"

    @property
    def least_tokens(self) -> int:
        """How many tokens it has, if not more."""
        if self._least is None:
            characters = self._endpoint.characters
            self._least = (
                0 if characters is None else characters(self._fields) // CHARACTERS_A_TOKEN
            )
        return self._least

    def exceeds(self, tokens: int | None) -> bool:
        """Tell whether it surely has more tokens than these; of None nothing is sure."""
        return (
            tokens is not None
            and self.size > tokens * CHARACTERS_A_TOKEN
            and self.least_tokens > tokens
        )


def why_no_room(model: Model, prompt: Prompt, window: int | None = None) -> str | None:
    """Return why a model has no room for a prompt; None where it may have.

    `window` is what it runs with, where that is known: never more than it was made for.
    """
    known = [each for each in (window, model.context_length) if each is not None]
    context = min(known, default=None)
    if not prompt.exceeds(context):
        return None
    if context == window:
        hint = _RAISE_WINDOW
    else:
        hint = f"If there is more room, say so: models.{model.name}.context_length in router.yaml."
    return (
        f"has room for {context} tokens, and this prompt has {prompt.least_tokens} at the very "
        f"least. {hint}"
    )


def why_cut(model: Model, prompt: Prompt, usage: Usage, window: int) -> str | None:
    """Return what to say of a prompt that was cut to an Ollama's window; None where it was not.

    One that fills the window was: were it as long by chance, there would be no room for an answer.
    Of several messages the oldest are left out, and what is read then fits: it is too little.
    """
    read = usage.prompt
    if read < window and not (read and prompt.exceeds(read)):
        return None
    return (
        f"{model.name} reads {window} tokens, and its server has cut the prompt to {read} without "
        f"saying so. {_RAISE_WINDOW}"
    )


def without_room(decision: Decision, crowded: Mapping[str, str]) -> Decision:
    """Return a decision less the routes to these models; why each has no room is told of it."""
    if not crowded:
        return decision
    # As by request: of several reasons, the first route's.
    first = next(iter(crowded.items()))
    return without(decision, crowded, Refused(TOO_LONG, " ".join(first)))
