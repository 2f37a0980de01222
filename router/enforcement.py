"""Holding whole answers to the JSON Schema that they were asked for: validate, or repair once.

What an answer is valid under is taken from the request as a chat, before shims changed it. Nothing
in here fails a request: where it cannot be told whether an answer is valid, that is the verdict.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final

import msgspec

from router.body import JsonBody

# Larger ones are not looked at.
MAX_SCHEMA: Final = 256 << 10
MAX_ANSWER: Final = 256 << 10
_ANY_OBJECT: Final[Mapping[str, Any]] = {"type": "object"}
_JSON: Final = msgspec.json.Decoder()
_ENCODER: Final = msgspec.json.Encoder()
# Of a failed answer, as much as the model is shown again, in characters.
_MAX_SHOWN: Final = 32 << 10


class Verdict(StrEnum):
    """What is said of an answer in `x-signalbox-enforcement`."""

    VALID = "valid"
    REPAIRED = "repaired"
    INVALID = "invalid"
    UNCHECKED = "unchecked"


class Finding(msgspec.Struct, frozen=True):
    """What came of looking at an answer; of an invalid one what it `said`, and the `complaint`."""

    verdict: Verdict
    said: str = ""
    complaint: str = ""


_UNCHECKED: Final = Finding(Verdict.UNCHECKED)


def schema_of(fields: Mapping[str, Any]) -> Any:
    """Return the schema that a chat request asks for; None where it asks for none."""
    wanted = fields.get("response_format")
    if not isinstance(wanted, dict):
        return None
    if wanted.get("type") == "json_object":
        return _ANY_OBJECT
    told = wanted.get("json_schema") if wanted.get("type") == "json_schema" else None
    return told.get("schema") if isinstance(told, dict) else None


def examine(schema: Any, body: bytes) -> Finding | None:
    """Return what is found of a whole chat completion; None where nothing of it was to be valid.

    Of several choices each is to be valid, but for tool calls and refusals. Blocks, for some ten
    milliseconds at most, and when first used for the time of an import: not for the event loop.
    """
    if len(body) > MAX_ANSWER or len(_ENCODER.encode(schema)) > MAX_SCHEMA:
        return _UNCHECKED
    finding = None
    for text in _said(_JSON.decode(body)):
        finding = _examined(schema, text)
        if finding.verdict is not Verdict.VALID:
            return finding
    return finding


def asked_again(body: JsonBody, finding: Finding) -> JsonBody:
    """Return a chat request with the answer that failed and what is wrong with it."""
    messages = body.fields.get("messages")
    return body.changed(
        {
            "messages": [
                *(messages if isinstance(messages, list) else ()),
                {"role": "assistant", "content": finding.said[:_MAX_SHOWN]},
                {"role": "user", "content": finding.complaint},
            ]
        }
    )


def _said(answer: Any) -> list[str]:
    """Return the contents that were to be valid; those that are missing count as empty."""
    choices = answer.get("choices") if isinstance(answer, dict) else None
    messages = [
        message
        for choice in (choices if isinstance(choices, list) else ())
        if isinstance(choice, dict)
        and choice.get("finish_reason") != "content_filter"
        and isinstance(message := choice.get("message"), dict)
    ]
    return [
        content if isinstance(content := message.get("content"), str) else ""
        for message in messages
        if not (message.get("tool_calls") or message.get("function_call") or message.get("refusal"))
    ]


def _examined(schema: Any, text: str) -> Finding:
    from router.schema_check import CannotTell, faults_of  # noqa: PLC0415 on first use only

    try:
        value = _JSON.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        return Finding(Verdict.INVALID, text, _complaint([f"It is not JSON: {error}"]))
    try:
        faults = faults_of(schema, value)
    except CannotTell:
        return _UNCHECKED
    return Finding(Verdict.INVALID, text, _complaint(faults)) if faults else Finding(Verdict.VALID)


def _complaint(faults: list[str]) -> str:
    wrong = "\n".join(f"- {fault[:500]}" for fault in faults)
    return (
        "Your last answer is not valid under the JSON Schema that was asked for:\n"
        f"{wrong}\n"
        "Answer again, with the corrected JSON and nothing else."
    )
