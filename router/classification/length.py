"""How long a prompt is at the very least: the characters of what is text in it.

Pictures, tools, names and whatever else a model's template may or may not write out count nothing,
so that the figure is never too high.
"""

from collections.abc import Mapping
from typing import Any

from router.capabilities import objects

# What tokenizers take many of at a time: indentation, rules, rows of dots.
_FILL = ("    ", "\t\t\t\t", "\n\n\n\n", "----", "====", "____", "....", "****", "####", "~~~~")
# Templates leave out what a model has thought before.
_THOUGHT = "</think>"


def characters_of_chat(body: Mapping[str, Any]) -> int:
    """Return how many characters of text the messages of a chat or of Anthropic's hold."""
    messages = sum(_characters(each.get("content")) for each in objects(body.get("messages")))
    return _characters(body.get("system")) + messages


def characters_of_messages(body: Mapping[str, Any]) -> int:
    """Return the same for Anthropic's protocol, whose server may be asked to leave some out."""
    return 0 if body.get("context_management") else characters_of_chat(body)


def characters_of_responses(body: Mapping[str, Any]) -> int:
    """Return how many characters of text an input holds that is not to be cut."""
    if body.get("truncation") == "auto":
        return 0
    given = body.get("input")
    items = sum(
        _characters(each.get("content")) + _characters(each.get("output"))
        for each in objects(given)
    )
    return _characters(body.get("instructions")) + _length(given) + items


def characters_of_completion(body: Mapping[str, Any]) -> int:
    """Return the characters of a prompt; several prompts are none of each other's length."""
    prompt = body.get("prompt")
    if isinstance(prompt, list):
        return max((_length(each) for each in prompt), default=0)
    return _length(prompt)


def _characters(content: object) -> int:
    """Return the characters of a text, or of the texts among parts and in the results of tools."""
    if isinstance(content, list):
        parts = objects(content)
        return sum(
            _length(part.get("text"))
            + _length(part.get("content"))
            + sum(_length(inner.get("text")) for inner in objects(part.get("content")))
            for part in parts
        )
    return _length(content)


def _length(text: object) -> int:
    if not isinstance(text, str):
        return 0
    said = text.rpartition(_THOUGHT)[2]
    return len(said) - sum(len(fill) * said.count(fill) for fill in _FILL)
