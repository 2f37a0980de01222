"""What a request for a chat completion may say, in OpenAI's words and those of local servers."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import msgspec
from pydantic import BaseModel, Field, ValidationError

from backends.mlx_backend.conversation import (
    MAX_IMAGE_MB,
    MAX_MESSAGES,
    WIRE,
    Message,
    read_messages,
)
from backends.mlx_backend.errors import ChatError
from backends.mlx_backend.generation import Constraint, Generation, Picture, Sampling, Tool
from backends.mlx_backend.structure import (
    MAX_TOOLS,
    NamedChoice,
    ResponseFormat,
    ToolBody,
    ToolChoice,
    read_constraint,
    read_tools,
)
from backends.mlx_backend.template_variables import MAX_VARIABLES, Variable, read_variables
from backends.wire import Priority

MAX_CHOICES = 8
MAX_STOPS = 16
MAX_STOP_CHARS = 256
MAX_STOP_IDS = 64
MAX_BIASES = 1024
MAX_BIAS = 100
MAX_TOP_LOGPROBS = 20
MAX_EFFORT_CHARS = 32
# Logits are divided by it: with less, they leave what a float32 holds.
MIN_REPETITION_PENALTY = 0.01
# Token ids, and counts of tokens, fit 31 bits; seeds are as wide as OpenAI's.
_INT31 = 2**31
_INT63 = 2**63

# Refused unless they say nothing (0, false, null, empty): an answer that ignores them would lie.
_UNSUPPORTED = ("audio", "prediction", "web_search_options")
_ADVICE = "leave it out, or bind the capability to a provider that has it"

_TokenId = Annotated[int, Field(ge=0, lt=_INT31)]
_Bias = Annotated[float, Field(ge=-MAX_BIAS, le=MAX_BIAS)]
_TOKEN_ID = re.compile(r"[0-9]{1,10}")


class StreamOptions(BaseModel):
    """What a stream carries besides the text."""

    model_config = WIRE
    include_usage: bool | None = None


class ChatBody(BaseModel):
    """The body of POST /v1/chat/completions; fields that are not named here are ignored."""

    model_config = WIRE
    model: str = Field(min_length=1, max_length=512)
    messages: list[Message] = Field(min_length=1, max_length=MAX_MESSAGES)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=0, lt=_INT31)
    min_p: float | None = Field(None, ge=0, le=1)
    seed: int | None = Field(None, ge=-_INT63, lt=_INT63)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    repetition_penalty: float | None = Field(None, ge=MIN_REPETITION_PENALTY, le=2)
    logit_bias: dict[str, _Bias] | None = Field(None, max_length=MAX_BIASES)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS)
    n: int | None = Field(None, ge=1, le=MAX_CHOICES)
    max_tokens: int | None = Field(None, ge=1, lt=_INT31)
    max_completion_tokens: int | None = Field(None, ge=1, lt=_INT31)
    stop: str | list[str] | None = None
    stop_token_ids: list[_TokenId] | None = Field(None, max_length=MAX_STOP_IDS)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    tools: list[ToolBody] | None = Field(None, max_length=MAX_TOOLS)
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    reasoning_effort: str | None = Field(None, min_length=1, max_length=MAX_EFFORT_CHARS)
    enable_thinking: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = Field(None, max_length=MAX_VARIABLES)
    # Looked at only to be refused.
    functions: list[Any] | None = None
    function_call: Any = None
    modalities: list[str] | None = None
    audio: Any = None
    prediction: Any = None
    web_search_options: Any = None


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A request that this backend can serve, checked and in its own words.

    `tools` is what the model is shown, none where it must not call any; `named` says that the one
    call of the answer was chosen by the client. `choices` is how many answers are wanted.
    `variables` are what the model's chat template is told besides.
    """

    model: str
    messages: tuple[dict[str, Any], ...]
    images: tuple[Picture, ...]
    sampling: Sampling
    max_tokens: int | None
    stop: tuple[str, ...]
    stop_ids: frozenset[int]
    tools: tuple[Tool, ...]
    constraint: Constraint | None
    named: bool
    choices: int
    stream: bool
    include_usage: bool
    variables: Mapping[str, Variable]

    def generations(
        self, folder: Path, priority: Priority, queue_s: float | None = None
    ) -> tuple[Generation, ...]:
        """Return one generation a choice; where a seed is given each has one of its own."""
        first = Generation(
            model=self.model,
            folder=folder,
            messages=self.messages,
            images=self.images,
            sampling=self.sampling,
            max_tokens=self.max_tokens,
            stop=self.stop,
            priority=priority,
            stop_ids=self.stop_ids,
            tools=self.tools,
            constraint=self.constraint,
            queue_s=queue_s,
            variables=self.variables,
        )
        seed = self.sampling.seed
        if seed is None:
            return (first,) * self.choices
        return tuple(
            replace(first, sampling=replace(self.sampling, seed=_seed(seed + index)))
            for index in range(self.choices)
        )


def _seed(number: int) -> int:
    return (number + _INT63) % (2 * _INT63) - _INT63


def parse_chat(raw: bytes, max_image_mb: float = MAX_IMAGE_MB) -> ChatRequest:
    """Read a request body; ChatError for what is malformed, unsupported or refused."""
    body = _validate(_decode(raw))
    _refuse_unsupported(body)
    messages, images = read_messages(body.messages, max_image_mb)
    tools = read_tools(body.tools or ())
    options = body.stream_options
    return ChatRequest(
        model=body.model,
        messages=messages,
        images=images,
        sampling=_sampling(body),
        max_tokens=body.max_completion_tokens or body.max_tokens,
        stop=_stops(body.stop),
        stop_ids=frozenset(body.stop_token_ids or ()),
        tools=() if body.tool_choice == "none" else tools,
        constraint=read_constraint(
            tools,
            body.tool_choice,
            body.response_format,
            parallel=body.parallel_tool_calls is not False,
        ),
        named=isinstance(body.tool_choice, NamedChoice),
        choices=body.n or 1,
        stream=bool(body.stream),
        include_usage=bool(options and options.include_usage),
        variables=read_variables(
            body.chat_template_kwargs,
            enable_thinking=body.enable_thinking,
            reasoning_effort=body.reasoning_effort,
        ),
    )


def _decode(raw: bytes) -> Any:
    try:
        return msgspec.json.decode(raw)
    except RecursionError:
        raise ChatError("json_too_deep", "the body is nested too deep") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ChatError("invalid_json", f"the body is not valid JSON: {error}") from None


def _validate(value: Any) -> ChatBody:
    if not isinstance(value, dict):
        raise ChatError("invalid_request", "the body must be a JSON object")
    try:
        return ChatBody.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        param = _path(first["loc"])
        text = f"{param or 'the body'}: {first['msg']}"
        raise ChatError("invalid_request", text, param) from None


def _path(location: tuple[int | str, ...]) -> str | None:
    # The members of a union are named in the location too (`(parts)`, `list[...]`); they are no
    # keys.
    path = ""
    for step in location:
        if isinstance(step, int):
            path += f"[{step}]"
        elif step.isidentifier() and step != "str":
            path += f".{step}" if path else step
    return path or None


def _refuse_unsupported(body: ChatBody) -> None:
    refusals = (
        (
            "functions",
            body.functions and body.function_call != "none",
            "functions is the older name of tools; send them as tools, and tool_choice",
        ),
        (
            "modalities",
            body.modalities not in (None, [], ["text"]),
            f"the builtin backend answers in text only; {_ADVICE}",
        ),
        *(
            (
                param,
                getattr(body, param),
                f"{param} is not supported by the builtin backend; {_ADVICE}",
            )
            for param in _UNSUPPORTED
        ),
    )
    for param, refused, text in refusals:
        if refused:
            raise ChatError("unsupported_parameter", text, param)


def _sampling(body: ChatBody) -> Sampling:
    if body.top_logprobs and not body.logprobs:
        text = "top_logprobs: set logprobs to true as well"
        raise ChatError("invalid_request", text, "top_logprobs")
    return Sampling(
        body.temperature,
        body.top_p,
        body.top_k,
        body.min_p,
        body.seed,
        body.frequency_penalty or 0.0,
        body.presence_penalty or 0.0,
        body.repetition_penalty or 1.0,
        logit_bias=_biases(body.logit_bias or {}),
        top_logprobs=(body.top_logprobs or 0) if body.logprobs else None,
    )


def _biases(biases: dict[str, float]) -> dict[int, float]:
    for key in biases:
        if not _TOKEN_ID.fullmatch(key) or int(key) >= _INT31:
            text = f"logit_bias: {key[:32]!r} is not the id of a token"
            raise ChatError("invalid_request", text, "logit_bias")
    return {int(key): value for key, value in biases.items()}


def _stops(stop: str | list[str] | None) -> tuple[str, ...]:
    stops = [stop] if isinstance(stop, str) else stop or []
    if len(stops) > MAX_STOPS or any(not 0 < len(text) <= MAX_STOP_CHARS for text in stops):
        raise ChatError(
            "invalid_request",
            f"stop: at most {MAX_STOPS} strings of 1 to {MAX_STOP_CHARS} characters",
            "stop",
        )
    return tuple(stops)
