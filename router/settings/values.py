"""The kinds of value that settings hold: each is checked when it is read.

Every ValueError here becomes one line that names the setting, so the texts say only what is due.
"""

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainValidator,
    StrictStr,
    WithJsonSchema,
)

from backends.wire import Priority
from router.capabilities import Capability, Dialect, Input
from router.keys import KeyReference, KeySource
from router.shims import Shim


def _path(text: object) -> Path:
    if not isinstance(text, str | Path):
        raise ValueError("a path is due here")  # noqa: TRY004 pydantic reports a ValueError
    try:
        path = Path(text).expanduser()
    except RuntimeError as exc:
        raise ValueError("there is no home folder that ~ could stand for") from exc
    if not path.is_absolute():
        raise ValueError("the path must be absolute or start with ~")
    return path


def _base_url(text: str) -> str:
    parts = urlsplit(text)  # a ValueError of its own for a bad port or bracket
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("an address is due here, such as http://127.0.0.1:11434")
    if parts.username is not None or parts.password is not None:
        raise ValueError("no name or password in an address; use api_key")
    if parts.query or parts.fragment or (parts.port or 1) < 1:
        raise ValueError("an address ends with its path: no ?, no #")
    return text.rstrip("/")


def _host(text: str) -> str:
    host = text.strip().removeprefix("[").removesuffix("]")
    if host == "localhost":
        # The name may stand for both protocols; one address keeps the promise of one door.
        return "127.0.0.1"
    if not re.fullmatch(r"[0-9A-Za-z.:_%-]+", host):
        raise ValueError("a host name or address is due here; 0.0.0.0 stands for all of them")
    return host


def authority(host: str) -> str:
    """Return a name or an address as a Host header spells it: IPv6 in brackets, no zone."""
    bare = host.removeprefix("[").removesuffix("]").partition("%")[0]
    try:
        address = ipaddress.ip_address(bare)
    except ValueError:
        return host.lower()
    return f"[{address}]" if address.version == 6 else str(address)  # noqa: PLR2004 IPv6


def own_names(host: str) -> frozenset[str]:
    """Return the names that a bound address gives us: its own, and none for all addresses."""
    name = authority(host)
    return frozenset() if name in {"0.0.0.0", "[::]"} else frozenset({name})  # noqa: S104 compared


def _allowed_host(text: str) -> str:
    name = authority(text)
    if not re.fullmatch(r"\[[0-9a-f:.]+\]|[0-9a-z._-]+", name):
        raise ValueError(
            "a host name or address is due here, alone: no scheme, no port (any will do), no *"
        )
    return name


def _allowed_origin(text: str) -> str:
    if not re.fullmatch(r"null|[a-z][a-z0-9+.-]*://[!-~]+", text) or re.search(
        r"[A-Z*/?#@]", text.partition("://")[2]
    ):
        raise ValueError(
            "an origin is due here, exactly as browsers spell it: scheme://host:port in small "
            "letters, without a path or a / at its end, such as https://chat.example"
        )
    return text


def _priority(value: object) -> Priority:
    try:
        priority = Priority.parse(str(value))
    except ValueError:
        priority = Priority.SYSTEM
    if priority is Priority.SYSTEM:
        raise ValueError("high or low is due here")
    return priority


def printable(text: str) -> str:
    """Return a name that may stand in headers and logs; ValueError for any other."""
    if not text.isprintable():
        raise ValueError("a name is made of printable characters")
    return text


_OUR_HEADERS: Final = frozenset(
    {"accept", "accept-encoding", "authorization", "connection", "content-length", "content-type"}
    | {"host", "transfer-encoding", "x-priority", "x-request-id"}
)


def _header_name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", text):
        raise ValueError("a header's name is due here, such as X-Team")
    if text.lower() in _OUR_HEADERS:
        raise ValueError("this header is the router's own; a key goes into api_key")
    return text


def _model_name(text: str) -> str:
    provider, _, model = text.partition("/")
    if not provider or not model or text != text.strip():
        raise ValueError("a model is named provider/model, such as builtin/smollm2-135m")
    return printable(text)


def is_loopback(host: str) -> bool:
    """Tell whether a host name or address is this machine, without asking a name server."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _fact(name: str) -> str:
    if name not in _FACTS:
        raise ValueError(f"unknown name, not one of {', '.join(_FACTS)}")
    return name


def _shims(shims: tuple[Shim, ...]) -> tuple[Shim, ...]:
    if {Shim.MAX_TOKENS, Shim.MAX_COMPLETION_TOKENS} <= set(shims):
        raise ValueError("max_tokens and max_completion_tokens undo each other: choose one")
    return shims


_FACTS: Final = (*Capability, *Input)
# Restated in the schema, since their validators are functions.
_TEXT: Final = WithJsonSchema({"type": "string"})
KeyRef = Annotated[
    KeyReference,
    PlainValidator(KeyReference.parse),
    WithJsonSchema(
        {
            "type": "object",
            "properties": {source.value: {"type": "string"} for source in KeySource},
            "additionalProperties": False,
            "minProperties": 1,
            "maxProperties": 1,
        }
    ),
]


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key that callers may show, and the priority of those who show it and name none."""

    reference: KeyReference
    priority: Priority | None = None

    @classmethod
    def parse(cls, value: object) -> "ApiKey":
        """Read a reference, with a `priority` beside it or not; ValueError says what is wrong."""
        if isinstance(value, ApiKey):
            return value
        if not isinstance(value, Mapping) or "priority" not in value:
            return cls(KeyReference.parse(value))
        rest = {name: told for name, told in value.items() if name != "priority"}
        return cls(KeyReference.parse(rest), _priority(value["priority"]))


ApiKeyRef = Annotated[
    ApiKey,
    PlainValidator(ApiKey.parse),
    WithJsonSchema(
        {
            "type": "object",
            "properties": {
                **{source.value: {"type": "string"} for source in KeySource},
                "priority": {"enum": ["high", "low"]},
            },
            "additionalProperties": False,
            "oneOf": [{"required": [source.value]} for source in KeySource],
        }
    ),
]
UserPath = Annotated[Path, BeforeValidator(_path), _TEXT]
Url = Annotated[StrictStr, AfterValidator(_base_url)]
Host = Annotated[StrictStr, AfterValidator(_host)]
AllowedHost = Annotated[StrictStr, AfterValidator(_allowed_host)]
AllowedOrigin = Annotated[StrictStr, AfterValidator(_allowed_origin)]
HeaderName = Annotated[StrictStr, AfterValidator(_header_name)]
HeaderValue = Annotated[StrictStr, Field(pattern=r"^[\x20-\x7e]*$")]
ModelName = Annotated[StrictStr, AfterValidator(_model_name)]
DefaultPriority = Annotated[
    Priority, PlainValidator(_priority), WithJsonSchema({"enum": ["high", "low"]})
]
# What is known of a model: the levers of the map, and the inputs that are none.
FactName = Annotated[StrictStr, AfterValidator(_fact), WithJsonSchema({"enum": list(_FACTS)})]
Dialects = tuple[Dialect, ...]
Shims = Annotated[tuple[Shim, ...], AfterValidator(_shims)]
Count = Annotated[int, Field(strict=True, ge=0)]
Size = Annotated[int, Field(strict=True, ge=1)]
Port = Annotated[int, Field(strict=True, ge=0, le=65535)]
Seconds = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
Amount = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
Ratio = Annotated[float, Field(strict=True, ge=0, le=1)]
ProviderName = Annotated[StrictStr, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
