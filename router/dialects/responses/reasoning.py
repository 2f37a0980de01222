"""Reasoning on its way to the client and back.

OpenAI hands out reasoning as text that only its servers can read, for clients that keep the
conversation themselves; some of them send nothing else of it back. Here the text stands in the open
beside it, so that nothing is hidden in `encrypted_content`: it is the same text, marked as ours.
"""

import base64
from collections.abc import Mapping
from typing import Any

from router.dialects.checks import list_at, object_at, text_at, unless_null

_MARK = "signalbox."
_TEXTS = ("content", "summary")


def sealed(text: str) -> str:
    """Return a text as what a client takes for encrypted."""
    return _MARK + base64.urlsafe_b64encode(text.encode()).decode()


def unsealed(encrypted: object) -> str | None:
    """Return the text of what was `sealed`; None for what was not, which is another server's."""
    if not isinstance(encrypted, str) or not encrypted.startswith(_MARK):
        return None
    try:
        return base64.urlsafe_b64decode(encrypted.removeprefix(_MARK)).decode()
    except ValueError:
        return None


def reasoning_sent_back(item: Mapping[str, Any], where: str) -> str | None:
    """Return the text of a reasoning item, the fullest there is; None for one that we cannot read.

    That is its `content`, else what we sealed, else its `summary`.
    """
    texts = {
        field: _texts(unless_null(item.get(field), []), f"{where}.{field}") for field in _TEXTS
    }
    if texts["content"]:
        return "\n\n".join(texts["content"])
    carried = unsealed(item.get("encrypted_content"))
    if carried is not None:
        return carried
    if texts["summary"]:
        return "\n\n".join(texts["summary"])
    return None if item.get("encrypted_content") else ""


def _texts(parts: Any, where: str) -> list[str]:
    return [
        text_at(object_at(part, f"{where}[{number}]").get("text"), where)
        for number, part in enumerate(list_at(parts, where))
    ]
