"""What a request tells the model's chat template besides the conversation."""

import re
from collections.abc import Mapping
from typing import Any, Final

from backends.mlx_backend.errors import ChatError

# A flag, a number, a word: what templates ask for. No template takes more of a client than that.
Variable = str | int | float | bool | None

MAX_VARIABLES: Final = 32
MAX_VARIABLE_CHARS: Final = 256
_FIELD: Final = "chat_template_kwargs"
_LARGEST: Final = 2**63
_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
# The efforts at which there is no reasoning.
_NO_EFFORT: Final = frozenset({"none", "minimal"})

# What would not reach the template, but change how it is applied, or stand before what it is given:
# the parameters of every function on the way there, in mlx-vlm, transformers and Jinja.
RESERVED: Final = frozenset(
    {
        # the conversation, and what belongs to it
        *("messages", "message", "conversation", "conversations", "prompt", "role", "content"),
        *("documents", "tools", "text", "context"),
        *("images", "image", "video", "videos", "audio", "audios", "num_images", "num_audios"),
        # what applies it
        *("self", "args", "kwargs", "config", "processor", "tokenizer", "model_name", "chat"),
        *("chat_template", "processor_kwargs", "tokenizer_kwargs", "template_kwargs"),
        *("mm_processor_kwargs", "load_audio_from_video", "max_pixels", "fps"),
        *("skip_image_token", "skip_audio_token", "sanitize_control_tokens"),
        # what becomes of the result
        *("add_generation_prompt", "continue_final_message", "add_special_tokens", "tokenize"),
        *("padding", "truncation", "max_length", "return_tensors", "return_dict"),
        *("return_messages", "return_assistant_tokens_mask"),
        # what every template can call
        *("raise_exception", "strftime_now", "range", "dict", "lipsum", "cycler", "joiner"),
        *("namespace", "loop", "caller", "varargs"),
    }
)
# `bos_token` and its kin: the tokens that frame the conversation, and that stand for pictures.
_TOKEN: Final = re.compile(r".*_tokens?(_id)?")


def read_variables(
    given: Mapping[str, Any] | None,
    *,
    enable_thinking: bool | None,
    reasoning_effort: str | None,
) -> dict[str, Variable]:
    """Return the template's variables: `chat_template_kwargs`, and the two that have fields.

    The more particular wins: a name in `given`, then the field `enable_thinking`, then what
    follows from `reasoning_effort`. ChatError for a name that is not the template's to hear of,
    and for a value that is no scalar, or too long.
    """
    variables: dict[str, Variable] = {}
    if reasoning_effort is not None:
        variables["reasoning_effort"] = reasoning_effort
        variables["enable_thinking"] = reasoning_effort not in _NO_EFFORT
    if enable_thinking is not None:
        variables["enable_thinking"] = enable_thinking
    for name, value in (given or {}).items():
        _check_name(name)
        _check_value(name, value)
        variables[name] = value
    return variables


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        text = f"{name[:32]!r} is no name that a chat template could use: letters, digits and _"
        raise ChatError("invalid_request", f"{_FIELD}: {text}", _FIELD)
    if name in RESERVED or _TOKEN.fullmatch(name):
        text = f"{name} is set by the backend itself; leave it out"
        raise ChatError("invalid_request", f"{_FIELD}: {text}", f"{_FIELD}.{name}")


def _check_value(name: str, value: Any) -> None:
    if isinstance(value, str):
        if len(value) <= MAX_VARIABLE_CHARS:
            return
        text = f"at most {MAX_VARIABLE_CHARS} characters"
    elif isinstance(value, (int, float)):
        if abs(value) < _LARGEST:
            return
        text = "a number of 64 bits at most"
    elif value is None:
        return
    else:
        text = "a string, a number, true, false or null"
    raise ChatError("invalid_request", f"{_FIELD}.{name} must be {text}", f"{_FIELD}.{name}")
