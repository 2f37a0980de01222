"""From token ids to text that may be sent: whole characters, and nothing of a stop string."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

_BROKEN = "\N{REPLACEMENT CHARACTER}"
# A character of up to four bytes lacks at most its last three: that many tokens, or replacement
# characters at the end, may still turn into something else.
_UNCERTAIN = 3
# Decoding one ever longer window would cost the square of its length; so much garbage in a row is
# not worth it.
_LONGEST_WINDOW = 64


def text_of_tokens(tokenizer: Any, silent: frozenset[int]) -> Callable[[Sequence[int]], str]:
    """Return what turns tokens into text with a Hugging Face tokenizer; `silent` ones have none."""
    # What the fast ones are built on says the same at a tenth of the cost; the others lack it.
    core = getattr(tokenizer, "backend_tokenizer", None)
    decode = (
        partial(tokenizer.decode, clean_up_tokenization_spaces=False)
        if core is None
        else core.decode
    )

    def text_of(tokens: Sequence[int]) -> str:
        shown = [token for token in tokens if token not in silent]
        return str(decode(shown, skip_special_tokens=False))

    return text_of


class IncrementalDecoder:
    """Decodes a growing list of tokens, handing out each character once it is whole.

    Decoding starts a few tokens back, because how a token reads depends on the one before it
    (a leading space, for one); `decode` must leave special tokens out.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._tokens: list[int] = []
        # The window that is decoded each time starts here; its first `_sent` characters are out.
        self._context = 0
        self._sent = 0
        # Where the window starts once its end is whole.
        self._border = 0

    def push(self, token: int) -> str:
        """Take one token; return the text that is now certain, "" where there is none yet."""
        self._tokens.append(token)
        text = self._decode(self._tokens[self._context :])
        uncertain = len(text) - len(text.rstrip(_BROKEN))
        if uncertain:
            pending = len(self._tokens) - self._border
            if pending >= _LONGEST_WINDOW:
                uncertain = 0
            elif pending > _UNCERTAIN:
                # Any before them are broken for good. While a character may still become whole,
                # whole ones before it can read as broken: a tokenizer that falls back to bytes
                # judges all the bytes in a row at once.
                uncertain = min(uncertain, _UNCERTAIN)
        certain = len(text) - uncertain
        new = text[self._sent : certain]
        if uncertain:
            self._sent = max(self._sent, certain)
        else:
            self._context, self._border = self._border, len(self._tokens)
            self._sent = len(self._decode(self._tokens[self._context :]))
        return new

    def flush(self) -> str:
        """Return what is left at the end, with a replacement character for half a character."""
        text = self._decode(self._tokens[self._context :])
        new, self._sent = text[self._sent :], len(text)
        return new


class StopStrings:
    """Cuts an answer at the first stop string, across the borders of its pieces.

    What might be the beginning of a stop string is held back until it is clear.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.hit = False

    def push(self, text: str) -> str:
        """Take more text; return what may be sent. Once `hit` is true there is nothing more."""
        if self.hit:
            return ""
        self._held += text
        cut = min(
            (at for stop in self._stops if (at := self._held.find(stop)) >= 0),
            default=-1,
        )
        if cut >= 0:
            self.hit = True
            sent, self._held = self._held[:cut], ""
            return sent
        keep = max((self._overlap(stop) for stop in self._stops), default=0)
        border = len(self._held) - keep
        sent, self._held = self._held[:border], self._held[border:]
        return sent

    def flush(self) -> str:
        """Return what was held back, at the end of an answer that no stop string ended."""
        sent, self._held = self._held, ""
        return sent

    def _overlap(self, stop: str) -> int:
        # The longest end of the text that is a beginning of the stop string.
        for size in range(min(len(stop) - 1, len(self._held)), 0, -1):
            if self._held.endswith(stop[:size]):
                return size
        return 0
