"""Names that are like one that is not there: few are compared, however many there are."""

import bisect
import difflib
from collections.abc import Iterable

# How many are told, and how alike they have to be: 1 is the same name.
_TOLD = 3
_LEAST = 0.5
# Neighbours on each side among all names in their order, and the most of those written by a person.
_NEIGHBOURS = 4
_MAX_WRITTEN = 100
# Longer ones are no mistakes of anybody's fingers, and comparing them takes its time.
_MAX_KEY = 64


class Names:
    """Names by what they are about: `gpt-5` is near `cloud/openai/GPT5`.

    All that are `written` by a person are compared, of the `listed` ones those beside it in order.
    """

    def __init__(self, written: Iterable[str], listed: Iterable[str]) -> None:
        by_hand = list(dict.fromkeys(written))
        self._written = [(_key(name), name) for name in by_hand[:_MAX_WRITTEN]]
        self._listed = sorted((_key(name), name) for name in (*by_hand[_MAX_WRITTEN:], *listed))

    def __repr__(self) -> str:
        return f"<Names written={len(self._written)} listed={len(self._listed)}>"

    def like(self, name: str) -> list[str]:
        """Return those that may have been meant, the likeliest first; [] when none is like it."""
        key = _key(name)
        at = bisect.bisect_left(self._listed, (key,))
        beside = self._listed[max(0, at - _NEIGHBOURS) : at + _NEIGHBOURS]
        # The second sequence is the one that is looked through once for all comparisons.
        matcher = difflib.SequenceMatcher(b=key, autojunk=False)
        found = []
        for each, told in (*self._written, *beside):
            matcher.set_seq1(each)
            if matcher.real_quick_ratio() >= _LEAST and matcher.quick_ratio() >= _LEAST:
                likeness = matcher.ratio()
                if likeness >= _LEAST:
                    found.append((-likeness, told))
        return [told for _, told in sorted(found)[:_TOLD]]


def _key(name: str) -> str:
    """Return what a name says without the folders before it, capitals and signs."""
    # Of tens of thousands of names: a table for str.translate takes three times as long.
    last = name[name.rfind("/") + 1 :] or name
    return last[:_MAX_KEY].lower().replace("-", "").replace("_", "").replace(".", "")
