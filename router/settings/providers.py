"""The kinds of provider as settings: who serves models, and how each kind is reached."""

from collections.abc import Mapping
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, StrictStr

from router.capabilities import Dialect
from router.settings.section import Section
from router.settings.values import (
    Amount,
    Dialects,
    HeaderName,
    HeaderValue,
    KeyRef,
    Port,
    Seconds,
    Shims,
    Size,
    Url,
    UserPath,
    is_loopback,
)
from router.shims import Shim

# What LiteLLM has to know of a cloud besides its address and its key; nothing here is a secret.
LiteLLMOption = Literal[
    "api_version",
    "aws_region_name",
    "vertex_location",
    "vertex_project",
]


class ProviderTimeouts(Section):
    """Deadlines of one provider in seconds; what it leaves out is taken from `timeouts`."""

    connect_s: Seconds | None = None
    first_byte_s: Seconds | None = None
    idle_s: Seconds | None = None
    total_s: Seconds | None = None


class SpendLimitSettings(Section):
    """What a provider may get in a day (UTC). `cost` is in the currency of `models.*.price`."""

    requests: Size | None = None
    tokens: Size | None = None
    cost: Amount | None = None


class ProviderBase(Section):
    """What every kind of provider may say."""

    locality: Literal["local", "remote"] | None = None
    proxy: Url | None = None
    ca_file: UserPath | None = None
    headers: Mapping[HeaderName, HeaderValue] = {}
    timeouts: ProviderTimeouts = Field(default_factory=ProviderTimeouts)
    spend_limit: SpendLimitSettings = Field(default_factory=SpendLimitSettings)

    @property
    def is_local(self) -> bool:
        """Whether a request to it stays on this machine, or where its owner says it may go."""
        if self.locality is not None:
            return self.locality == "local"
        return self._stays_here()

    def _stays_here(self) -> bool:
        base_url = getattr(self, "base_url", None)
        return base_url is not None and is_loopback(urlsplit(base_url).hostname or "")


class BuiltinProvider(ProviderBase):
    """The MLX backend that belongs to this project, a process of its own."""

    kind: Literal["builtin"]
    port: Port = 60316
    start: Literal["eager", "on_demand"] = "eager"
    python: UserPath | None = None
    token: Literal["auto", "none"] = "auto"  # noqa: S105 a mode, not a secret

    def _stays_here(self) -> bool:
        return True


class OllamaProvider(ProviderBase):
    """An Ollama server."""

    kind: Literal["ollama"]
    base_url: Url = "http://127.0.0.1:11434"
    api_key: KeyRef | None = None
    dialects: Dialects = (Dialect.CHAT,)
    # What 0.17.4 was seen to need.
    shims: Shims = (Shim.TOOLS_WITH_SCHEMA, Shim.MAX_TOKENS)


class OpenAIProvider(ProviderBase):
    """Any server that speaks OpenAI's protocol; `base_url` ends as its API does, often in /v1."""

    kind: Literal["openai"]
    base_url: Url
    api_key: KeyRef | None = None
    key_header: Literal["authorization", "x-api-key"] = "authorization"
    dialects: Dialects = (Dialect.CHAT,)
    shims: Shims = ()


class LiteLLMProvider(ProviderBase):
    """A cloud of another dialect, translated by LiteLLM, under the name that has for it.

    `base_url` is what LiteLLM calls `api_base`.
    """

    kind: Literal["litellm"]
    litellm_provider: Annotated[StrictStr, Field(pattern="^[a-z0-9_]+$")]
    base_url: Url | None = None
    api_key: KeyRef | None = None
    options: Mapping[LiteLLMOption, StrictStr] = {}


class ProcessProvider(ProviderBase):
    """Any local command that serves OpenAI's protocol on the port that it is given."""

    kind: Literal["process"]
    command: Annotated[tuple[StrictStr, ...], Field(min_length=1)]
    start: Literal["eager", "on_demand"] = "on_demand"
    ready_path: Annotated[StrictStr, Field(pattern="^/")] = "/health"
    cwd: UserPath | None = None
    env: Mapping[StrictStr, StrictStr] = {}
    instances: Size = 1
    group: StrictStr | None = None
    memory_mb: Size | None = None
    stop_s: Seconds | None = None

    def _stays_here(self) -> bool:
        return True


Provider = Annotated[
    BuiltinProvider | OllamaProvider | OpenAIProvider | LiteLLMProvider | ProcessProvider,
    Field(discriminator="kind"),
]
