"""Every setting as a frozen type: names as in `config/router.yaml`, units in the names.

What a setting means to a person stands in that file; the bounds and the defaults stand here.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PrivateAttr,
    StrictBool,
    StrictStr,
    model_validator,
)

from backends.wire import Priority
from router.capabilities import Capability, Enforce
from router.settings.providers import Provider
from router.settings.section import Section
from router.settings.sources import Origin
from router.settings.values import (
    AllowedHost,
    AllowedOrigin,
    Amount,
    ApiKeyRef,
    Count,
    DefaultPriority,
    FactName,
    Host,
    KeyRef,
    ModelName,
    Port,
    ProviderName,
    Ratio,
    Seconds,
    Size,
    Url,
    UserPath,
    is_loopback,
    printable,
)


class Server(Section):
    """Where the router listens, and who may talk to it."""

    host: Host = "127.0.0.1"
    port: Port = 60315
    api_keys: tuple[ApiKeyRef, ...] = ()
    admin_key: KeyRef | None = None
    allowed_hosts: tuple[AllowedHost, ...] = ()
    allowed_origins: tuple[AllowedOrigin, ...] = ()

    @model_validator(mode="after")
    def _keys_where_others_can_knock(self) -> "Server":
        if not is_loopback(self.host) and not (self.api_keys and self.admin_key):
            raise ValueError(
                f"host {self.host} can be reached from other machines: both api_keys and "
                "admin_key are needed to start (or host: 127.0.0.1)"
            )
        return self


# Models, names, the map


class PriceSettings(Section):
    """What a million tokens cost, of the prompt and of the answer; any one currency."""

    prompt: Amount
    completion: Amount


class ModelSettings(Section):
    """What the user says of one model: facts, and for the builtin backend where it lies."""

    capabilities: Mapping[FactName, StrictBool] = {}
    context_length: Size | None = None
    price: PriceSettings | None = None
    path: UserPath | None = None
    repo: Annotated[StrictStr, Field(pattern=r"^[^/@\s]+/[^/@\s]+(@[^@\s]+)?$")] | None = None

    @model_validator(mode="after")
    def _one_place(self) -> "ModelSettings":
        if self.path is not None and self.repo is not None:
            raise ValueError("path and repo exclude each other: a model lies in one place")
        return self


def _short_alias(value: object) -> object:
    return {"to": value} if isinstance(value, str) else value


class AliasTarget(Section):
    """Where a name leads to, and the priority of those who cannot send one."""

    to: Annotated[StrictStr, Field(min_length=1), AfterValidator(printable)]
    priority: DefaultPriority | None = None


def _short_binding(value: object) -> object:
    if isinstance(value, str):
        raise ValueError(f"write a list of models: [{value}]")  # noqa: TRY004 pydantic wants it
    return {"models": value} if isinstance(value, list | tuple) else value


class BindingSettings(Section):
    """Which models serve a capability: the first serves, the rest are fallbacks, in this order."""

    models: tuple[ModelName, ...] = ()
    allow_remote_fallback: StrictBool = False
    local_only: StrictBool = False
    enforce: Enforce = Enforce.OFF
    while_starting: Literal["wait", "next"] = "wait"

    @model_validator(mode="after")
    def _each_model_once(self) -> "BindingSettings":
        if len(set(self.models)) != len(self.models):
            raise ValueError("a model stands here twice")
        return self


# Numbers


class BuiltinSettings(Section):
    """How the builtin backend schedules; `active` rows run at once, `max_low` of them LOW."""

    active: Size = 4
    reserve_high: Count = 1
    max_low: Size = 3
    queue: Size = 256
    prefill_chunk_ms: Size = 100
    idle_unload_s: Seconds = 900
    queue_idle_stop_s: Seconds = 60
    kv_bits: Literal[2, 3, 4, 6, 8] | None = None

    @model_validator(mode="after")
    def _rows_add_up(self) -> "BuiltinSettings":
        if self.max_low > self.active or self.reserve_high > self.active:
            raise ValueError("max_low and reserve_high are parts of active and cannot exceed it")
        return self


class ProcessSettings(Section):
    """How local processes are stopped, restarted and kept within the machine's memory."""

    stop_s: Seconds = 10
    idle_stop_s: Seconds = 900
    memory_budget_mb: Size | None = None
    backoff_max_s: Seconds = 60
    window_s: Seconds = 300
    starts_per_window: Size = 5


class LaneSettings(Section):
    """How many requests one provider gets at once, and how many may wait."""

    concurrency: Size = 1024
    queue: Count = 1024
    reserve_high: Count = 8


class RetrySettings(Section):
    """Further routes that a request may try, out of a budget that refills with each request."""

    attempts: Count = 1
    budget: Ratio = 0.2


class BreakerSettings(Section):
    """When a provider is left alone: after so many failures in a row, for so many seconds."""

    failures: Size = 5
    open_s: Seconds = 30


class LimitSettings(Section):
    """What a request or an answer may weigh."""

    body_mb: Size = 64
    response_mb: Size = 64
    buffered_mb: Size = 1024
    # Python's own stack ends near 1,000 levels.
    depth: Annotated[int, Field(strict=True, ge=1, le=500)] = 64
    values: Size = 1_000_000
    header_kb: Size = 32
    images: Size = 64


class TimeoutSettings(Section):
    """Deadlines in seconds, from the request's first byte to the last one of its answer."""

    header_s: Seconds = 10
    body_s: Seconds = 60
    queue_s: Seconds = 120
    connect_s: Seconds = 5
    first_byte_s: Seconds = 600
    idle_s: Seconds = 300
    total_s: Seconds = 3600
    send_stall_s: Seconds = 60
    start_s: Seconds = 300
    drain_s: Seconds = 30


class ImageSettings(Section):
    """Which pictures are fetched or read for a request, and how large they may be."""

    local_roots: tuple[UserPath, ...] = ()
    remote_fetch: StrictBool = False
    max_mb: Size = 20
    max_megapixels: Size = 50
    max_side_px: Size = 1920
    allow_local_files_to_cloud: StrictBool = False


class DownloadSettings(Section):
    """Where builtin models come from."""

    source: Literal["huggingface", "hf-mirror"] = "huggingface"
    proxy: Url | None = None
    token: KeyRef | None = None


class DiscoverySettings(Section):
    """How often providers are asked for their models once somebody looks; None: by no clock."""

    every_s: Seconds | None = 300


class LogSettings(Section):
    """What the log tells; prompts never, unless asked for."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    prompts: StrictBool = False
    file_mb: Size = 50


class Settings(Section):
    """The whole tree. Made by `router.settings.load`; nothing in it changes afterwards."""

    server: Server = Field(default_factory=Server)
    data_dir: UserPath | None = None
    database_url: StrictStr | None = None
    local_only: StrictBool = False
    default_priority: DefaultPriority = Field(
        default=Priority.LOW, json_schema_extra={"default": "low"}
    )
    providers: Mapping[ProviderName, Provider] = {}
    models: Mapping[ModelName, ModelSettings] = {}
    aliases: Mapping[
        StrictStr,
        Annotated[
            AliasTarget,
            BeforeValidator(_short_alias, json_schema_input_type=StrictStr | AliasTarget),
        ],
    ] = {}
    capabilities: Mapping[
        Capability,
        Annotated[
            BindingSettings,
            BeforeValidator(
                _short_binding, json_schema_input_type=tuple[ModelName, ...] | BindingSettings
            ),
        ],
    ] = {}
    builtin: BuiltinSettings = Field(default_factory=BuiltinSettings)
    processes: ProcessSettings = Field(default_factory=ProcessSettings)
    lanes: Mapping[StrictStr, LaneSettings] = {}
    retry: RetrySettings = Field(default_factory=RetrySettings)
    breaker: BreakerSettings = Field(default_factory=BreakerSettings)
    limits: LimitSettings = Field(default_factory=LimitSettings)
    timeouts: TimeoutSettings = Field(default_factory=TimeoutSettings)
    images: ImageSettings = Field(default_factory=ImageSettings)
    downloads: DownloadSettings = Field(default_factory=DownloadSettings)
    discovery: DiscoverySettings = Field(default_factory=DiscoverySettings)
    log: LogSettings = Field(default_factory=LogSettings)

    _source: Path = PrivateAttr(default=Path())
    _data_folder: Path = PrivateAttr(default=Path())
    _notices: tuple[str, ...] = PrivateAttr(default=())
    _origin: Origin = PrivateAttr(default_factory=Origin)

    @property
    def source(self) -> Path:
        """The file that was read."""
        return self._source

    @property
    def data_folder(self) -> Path:
        """Where this installation keeps its data: `data_dir`, or the platform's folder."""
        return self.data_dir or self._data_folder

    @property
    def notices(self) -> tuple[str, ...]:
        """What the log should say once at start: settings that have no effect, and why."""
        return self._notices

    @property
    def origin(self) -> Origin:
        """What `load` was given when it made this tree."""
        return self._origin

    def lane(self, provider: str) -> LaneSettings:
        """Return the lane of a provider: its own, else the one named `default`."""
        return self.lanes.get(provider) or self.lanes.get("default") or LaneSettings()
