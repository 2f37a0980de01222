"""A request of the responses protocol, as a chat completion.

Every field of the published schema is in one of four classes: translated, passed on under its own
name, left out because it changes nothing of the answer, or refused by name. A field that is in none
of them is passed on: whoever answers may know it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from router.dialects.checks import clipped, list_at, malformed, object_at, text_at
from router.dialects.responses.conversation import Conversation
from router.dialects.responses.refusal import unsupported
from router.dialects.responses.tools import Tools

PASSED: Final = frozenset(
    {
        "prompt_cache_key",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "temperature",
        "top_p",
        "user",
    }
)
# `max_tool_calls` counts the calls of hosted tools only, `client_metadata` is what a program of
# OpenAI's tells it about itself.
LEFT_OUT: Final = frozenset({"client_metadata", "max_tool_calls", "metadata"})

# For each field that is refused: what it may be all the same, and what to do instead.
REFUSED: Final[Mapping[str, tuple[tuple[Any, ...], str]]] = {
    "access_programs": ((), "it has no access programs. Leave access_programs out."),
    "background": (
        (False,),
        "it answers while you wait. Leave background out; stream shows the answer as it comes.",
    ),
    "context_management": (
        ([],),
        "it compacts nothing. Leave context_management out, and shorten input yourself.",
    ),
    "conversation": (
        (),
        "no conversation is kept there. Leave conversation out, and send all its items in input.",
    ),
    "image": ((), "it has no options for pictures. Leave image out."),
    "moderation": ((), "it moderates nothing. Leave moderation out."),
    "previous_response_id": (
        (),
        (
            "no response is kept there. Leave previous_response_id out, and send the whole "
            "conversation in input: what was asked, and the items of each answer's output."
        ),
    ),
    "prompt": (
        (),
        "no prompt is kept there. Leave prompt out, and send its text in instructions and input.",
    ),
    "store": (
        (False,),
        "no response is kept there. Set store to false, or leave it out, and keep the answer.",
    ),
    "truncation": (
        ("disabled",),
        "nothing is cut from a prompt there. Leave truncation out, and shorten input yourself.",
    ),
}
# Fields of chat completions that would say the same again, or what no response can hold.
FOREIGN: Final[Mapping[str, str]] = {
    "audio": "there is no sound in a response",
    "function_call": "say it in tool_choice",
    "functions": "say it in tools",
    "logprobs": "say it in include, as message.output_text.logprobs",
    "max_completion_tokens": "say it in max_output_tokens",
    "max_tokens": "say it in max_output_tokens",
    "messages": "say it in input",
    "modalities": "a response is text",
    "n": "a response is one answer",
    "reasoning_effort": "say it in reasoning.effort",
    "response_format": "say it in text.format",
    "verbosity": "say it in text.verbosity",
}
_LOGPROBS: Final = "message.output_text.logprobs"
# What may be included without any effect here: it belongs to items that nobody here makes, or is
# there anyway.
_INCLUDED: Final = frozenset(
    {
        "code_interpreter_call.outputs",
        "computer_call_output.output.image_url",
        "file_search_call.results",
        "message.input_image.image_url",
        "reasoning.encrypted_content",
        "web_search_call.action.sources",
        "web_search_call.results",
    }
)
_FORMATS: Final = ("text", "json_object", "json_schema")


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked: as a chat completion, and what its answer has to know of it.

    `summarized`: the client wants to read what was thought. `withheld` are the ids of reasoning
    items that could not be shown to the model.
    """

    fields: Mapping[str, Any]
    chat: dict[str, Any]
    tools: Tools
    summarized: bool
    logprobs: bool
    withheld: tuple[str, ...]


def read_request(fields: Mapping[str, Any]) -> Request:
    """Read a request; Refused `unsupported_parameter` or `invalid_request`."""
    given = {name: value for name, value in fields.items() if value is not None}
    _refuse(given)
    conversation = Conversation()
    if "instructions" in given:
        conversation.instruct(text_at(given["instructions"], "instructions"))
    if "input" not in given:
        raise malformed("input", "a string or a list of items")
    conversation.read(given["input"])
    tools = Tools(given.get("tools"))
    chat: dict[str, Any] = {"messages": conversation.messages, **_tools(given, tools)}
    for name, translate in _TRANSLATED.items():
        if name in given:
            chat |= translate(given[name])
    logprobs = _wants_logprobs(given)
    if logprobs:
        wanted = {name: given[name] for name in ("top_logprobs",) if name in given}
        chat |= {"logprobs": True, **wanted}
    chat |= {
        name: value for name, value in given.items() if name in PASSED or name not in _UNDERSTOOD
    }
    reasoning = given.get("reasoning") or {}
    summarized = bool(reasoning.get("summary") or reasoning.get("generate_summary"))
    return Request(fields, chat, tools, summarized, logprobs, tuple(conversation.withheld))


def _refuse(given: Mapping[str, Any]) -> None:
    for name, value in given.items():
        if name in REFUSED:
            harmless, text = REFUSED[name]
            # By type too: 0 is no False.
            if not any(value == each and type(value) is type(each) for each in harmless):
                raise unsupported(name, text)
        elif name in FOREIGN:
            text = f"{name} is a field of chat completions, not of responses: {FOREIGN[name]}."
            raise unsupported(name, text)


def _tools(given: Mapping[str, Any], tools: Tools) -> dict[str, Any]:
    """Return what a chat completion says of tools: nothing at all where there are none."""
    choice = tools.choose(given.get("tool_choice", "auto"))
    if not tools.offered:
        if choice not in ("auto", "none"):
            raise malformed("tool_choice", "auto or none where there are no tools")
        return {}
    said = {**given, "tool_choice": choice}
    told = {name: said[name] for name in ("tool_choice", "parallel_tool_calls") if name in given}
    return {"tools": tools.offered, **told}


def _limit(value: Any) -> dict[str, Any]:
    # The older name, which every server knows.
    return {"max_tokens": value}


def _reasoning(value: Any) -> dict[str, Any]:
    reasoning = object_at(value, "reasoning")
    if reasoning.get("context") not in (None, "auto", "all_turns"):
        raise unsupported(
            "reasoning.context",
            "the model is shown all reasoning that input holds. Leave reasoning.context out, and "
            "the items that it should not see.",
        )
    if reasoning.get("mode") not in (None, "standard"):
        raise unsupported("reasoning.mode", "it has no modes. Leave reasoning.mode out.")
    effort = reasoning.get("effort")
    return {} if effort is None else {"reasoning_effort": effort}


def _text(value: Any) -> dict[str, Any]:
    text = object_at(value, "text")
    said = {} if text.get("verbosity") is None else {"verbosity": text["verbosity"]}
    if text.get("format") is None:
        return said
    form = object_at(text["format"], "text.format")
    match form.get("type"):
        case "text":
            return said
        case "json_object":
            return {**said, "response_format": {"type": "json_object"}}
        case "json_schema":
            schema = {key: form[key] for key in form if key != "type" and form[key] is not None}
            return {**said, "response_format": {"type": "json_schema", "json_schema": schema}}
        case _:
            raise malformed("text.format.type", f"one of {', '.join(_FORMATS)}")


def _cache_options(value: Any) -> dict[str, Any]:
    options = object_at(value, "prompt_cache_options")
    for name in ("comparison_response_id", "prewarm"):
        if options.get(name):
            where = f"prompt_cache_options.{name}"
            raise unsupported(where, f"it has no such option. Leave {name} out.")
    passed = {name: options[name] for name in options if name in {"mode", "ttl"}}
    return {"prompt_cache_options": passed} if passed else {}


def _stream(value: Any) -> dict[str, Any]:
    return {"stream": True} if value is True else {}


def _stream_options(value: Any) -> dict[str, Any]:
    """Check the options of a stream; that its events be padded is a wish that none has to hear."""
    for name in object_at(value, "stream_options"):
        if name != "include_obfuscation":
            where = f"stream_options.{clipped(name)}"
            raise unsupported(where, f"it has no such option. Leave {clipped(name)} out.")
    return {}


def _wants_logprobs(given: Mapping[str, Any]) -> bool:
    included = list_at(given.get("include", []), "include")
    for number, each in enumerate(included):
        if text_at(each, f"include[{number}]") not in _INCLUDED | {_LOGPROBS}:
            raise unsupported(f"include[{number}]", f"it has no {clipped(each)}. Leave it out.")
    return _LOGPROBS in included or bool(given.get("top_logprobs"))


_TRANSLATED: Final[Mapping[str, Callable[[Any], dict[str, Any]]]] = {
    "max_output_tokens": _limit,
    "prompt_cache_options": _cache_options,
    "reasoning": _reasoning,
    "stream": _stream,
    "stream_options": _stream_options,
    "text": _text,
}
TRANSLATED: Final = _TRANSLATED.keys() | {
    "include",
    "input",
    "instructions",
    # By the request path, which knows the model's name there.
    "model",
    "parallel_tool_calls",
    "tool_choice",
    "tools",
    "top_logprobs",
}
_UNDERSTOOD: Final = TRANSLATED | LEFT_OUT | REFUSED.keys()
