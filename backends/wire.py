"""Words that both processes speak: error codes and their envelope, priorities, headers, events.

Imports nothing but the standard library, so that either side can load it first.
"""

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Any

REQUEST_ID = "x-request-id"
PRIORITY = "x-priority"
LOCAL_ONLY = "x-signalbox-local-only"
# The SDKs retry 408, 409, 429 and 5xx by themselves unless this header says "false".
SHOULD_RETRY = "x-should-retry"


class Priority(IntEnum):
    """Who goes first: a smaller number overtakes a larger one."""

    SYSTEM = 0
    HIGH = 1
    LOW = 10

    @classmethod
    def parse(cls, text: str) -> "Priority":
        """Read a priority by number or name; ValueError for anything else."""
        word = text.strip()
        if word.isascii() and word.isdigit():
            return cls(int(word)) if word in {str(int(each)) for each in cls} else cls(-1)
        try:
            return cls[word.upper()]
        except KeyError:
            raise ValueError(text) from None


@dataclass(frozen=True, slots=True)
class CodeSpec:
    """What a code means on the wire: HTTP status, OpenAI error type, whether a retry can help."""

    status: int
    type: str
    retry: bool


_TYPE_BY_STATUS = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}

# A retry helps with the ones that pass by themselves; everything else is told not to.
_RETRYABLE = frozenset(
    {
        "request_timeout",
        "queue_full",
        "queue_timeout",
        "shutting_down",
        "upstream_unreachable",
        "upstream_reset",
        "upstream_timeout",
        "provider_unavailable",
        "backend_start_timeout",
        "store_unavailable",
    }
)

_STATUS_BY_CODE = {
    400: (
        "invalid_json",
        "json_too_deep",
        "too_many_values",
        "invalid_request",
        "invalid_priority",
        "capability_mismatch",
        "context_length_exceeded",
        "unsupported_parameter",
        "invalid_image",
        "too_many_images",
        "image_not_found",
        "image_url_not_allowed",
        "file_url_not_allowed",
        "invalid_configuration",
    ),
    401: ("invalid_api_key",),
    403: ("host_not_allowed", "origin_not_allowed", "priority_not_allowed", "remote_not_allowed"),
    404: ("not_found", "model_not_found", "capability_not_assigned", "model_not_downloaded"),
    405: ("method_not_allowed",),
    408: ("request_timeout",),
    409: ("backend_not_assigned", "request_cancelled", "conflict", "download_not_available"),
    413: ("body_too_large",),
    415: ("unsupported_media_type",),
    429: ("queue_full", "spend_limit_reached"),
    431: ("headers_too_large",),
    500: ("internal_error", "generation_failed"),
    502: (
        "upstream_unreachable",
        "upstream_reset",
        "upstream_protocol_error",
        "upstream_invalid_response",
        "upstream_response_too_large",
        "provider_auth_error",
        "download_failed",
    ),
    503: (
        "provider_unavailable",
        "queue_timeout",
        "backend_port_in_use",
        "backend_start_timeout",
        "backend_failed",
        "model_load_failed",
        "shutting_down",
        "store_unavailable",
    ),
    504: ("upstream_timeout",),
    507: ("disk_full",),
}
# These can only happen once a stream has begun, so their status is never sent.
_IN_STREAM = (
    "upstream_truncated",
    "upstream_idle_timeout",
    "upstream_total_timeout",
    "upstream_invalid_frame",
)
# The product's older clients know these by their own types.
_TYPE_BY_CODE = {
    "model_not_downloaded": "model_not_found",
    "generation_failed": "internal_server_error",
}


def _type_of(code: str, status: int) -> str:
    by_status = _TYPE_BY_STATUS.get(status)
    fallback = "server_error" if status >= 500 else "invalid_request_error"  # noqa: PLR2004 HTTP
    return _TYPE_BY_CODE.get(code) or by_status or fallback


CODES: dict[str, CodeSpec] = {
    code: CodeSpec(status, _type_of(code, status), code in _RETRYABLE)
    for status, codes in {**_STATUS_BY_CODE, 502: _STATUS_BY_CODE[502] + _IN_STREAM}.items()
    for code in codes
}


def envelope(code: str, message: str, param: str | None = None) -> dict[str, Any]:
    """Return OpenAI's error body for a code of `CODES`; KeyError for a code that is not there."""
    return {
        "error": {"message": message, "type": CODES[code].type, "param": param, "code": code},
    }


class ProcessState(StrEnum):
    """Where a local process stands; the legal moves are in `backends.lifecycle`."""

    STOPPED = "stopped"
    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    STOPPING = "stopping"
    BACKOFF = "backoff"
    FATAL = "failed"
    BLOCKED = "blocked"


@dataclass(frozen=True, slots=True)
class BackendEvent:
    """A local process changed its state."""

    name: str
    state: ProcessState
    pid: int | None
    message: str


class LoadPhase(StrEnum):
    """What is being done to load a model, in this order."""

    PREPARING = "preparing"
    """Its files are checked; the tokenizer, the processor and the empty layers are made."""
    WEIGHTS = "weights"
    """Its weights are read; the percentage counts bytes."""
    WARM_UP = "warm_up"
    """Tables for grammars are made, and the first tokens of the model are computed."""
    SELF_TEST = "self_test"
    """It is tried whether rows of it may share a batch."""


class UnloadReason(StrEnum):
    """Why a model is in memory no longer; ENDED: its process is gone."""

    IDLE = "idle"
    ASKED = "asked"
    MEMORY = "memory"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class ModelLoading:
    """A load is so far: `percent` of this phase is done."""

    model: str
    phase: LoadPhase
    percent: int


@dataclass(frozen=True, slots=True)
class ModelLoaded:
    """A model is in memory; loading it took `load_s`."""

    model: str
    load_s: float


@dataclass(frozen=True, slots=True)
class ModelLoadFailed:
    """A model could not be loaded, and why."""

    model: str
    message: str


@dataclass(frozen=True, slots=True)
class ModelUnloaded:
    """A model's memory was given back, and why."""

    model: str
    reason: UnloadReason


ModelNews = ModelLoading | ModelLoaded | ModelLoadFailed | ModelUnloaded
# What each is called, on the pipe from a child and among the router's events.
NEWS_NAMES: dict[type[ModelNews], str] = {
    ModelLoading: "model_load",
    ModelLoaded: "model_loaded",
    ModelLoadFailed: "model_load_failed",
    ModelUnloaded: "model_unloaded",
}


@dataclass(frozen=True, slots=True)
class ModelEvent:
    """A local process, `name`, said this of one of its models."""

    name: str
    news: ModelNews


ProcessEvent = BackendEvent | ModelEvent


class DownloadStage(StrEnum):
    """Where the download of a builtin model stands."""

    STARTING = "starting"
    CONNECTING = "connecting"
    DOWNLOADING = "downloading"
    CONVERTING = "converting"
    READY = "ready"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class DownloadEvent:
    """Progress of one model's download; `current` and `total` are bytes, `total` 0 when unknown."""

    model: str
    source: str
    stage: DownloadStage
    current: int
    total: int
    message: str
