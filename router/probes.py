"""Tries out what models can do, by requests of the router's own through the path of all requests.

Lanes, the life of processes and the rules of locality are the usual ones; only what is believed of
the model so far does not count.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import msgspec

from backends.wire import LOCAL_ONLY, PRIORITY
from router.capabilities import Capability
from router.capability_map import CapabilityMap, VerdictStore
from router.catalog import Catalog, Locality, Model, locality_of
from router.errors import Refused
from router.learned import Verdict
from router.request import ADMIN, Message, Receive, Scope, Send
from router.trial import (
    COLOURS,
    TRIABLE,
    Finding,
    Shown,
    Trial,
    error_text,
    schema_trial,
    settled,
    text_trial,
    tool_trial,
    vision_trial,
)

Serve = Callable[[Scope, Receive, Send], Awaitable[None]]
# One question, the start of a process and the loading of a model included.
_ASK_S = 180.0
_BAD_REQUEST = 400


class Probes:
    """Tries models out, one at a time.

    `serve` returns the request path by another catalog than the map's, `settle` asks providers
    where their models' prompts end up.
    """

    def __init__(
        self,
        the_map: CapabilityMap,
        serve: Callable[[Callable[[], Catalog]], Serve],
        settle: Callable[[Collection[str]], Awaitable[None]],
    ) -> None:
        self._map = the_map
        self._serve = serve
        self._settle = settle
        self._one_at_a_time = asyncio.Lock()

    async def probe(
        self,
        name: str,
        capabilities: Collection[Capability],
        store: VerdictStore,
        *,
        allow_remote: bool = False,
    ) -> Mapping[str, Verdict]:
        """Return what trying shows, once it is stored and counts.

        Raises Refused (`model_not_found`, `remote_not_allowed` unless it may be asked, and what any
        request is refused for) or RouteFailed where the model cannot be asked: then nothing is
        stored.
        """
        untried = [each for each in capabilities if each not in TRIABLE]
        if untried:
            raise Refused(
                "invalid_request",
                f"{', '.join(untried)} cannot be tried; {', '.join(TRIABLE)} can.",
                param="capabilities",
            )
        model = await self._model(name, allow_remote=allow_remote)
        serve = self._serve(_Unjudged(self._map, model.name))
        async with self._one_at_a_time:
            verdicts = {
                str(capability): await _try(serve, model.name, capability, allow_remote)
                for capability in TRIABLE
                if capability in capabilities
            }
            await self._map.try_out(model.name, verdicts, store)
        return verdicts

    async def _model(self, name: str, *, allow_remote: bool) -> Model:
        model = _known(self._map.catalog, name)
        if self._locality(model) is None:
            await self._settle((model.provider,))
            model = _known(self._map.catalog, name)
        if self._locality(model) is not Locality.LOCAL and not allow_remote:
            raise Refused(
                "remote_not_allowed",
                f"{model.name} is not known to run on this machine, and trying it out sends up to "
                "seven short requests there. Where that is what you want, say so: "
                "signalbox models probe --yes, or allow_remote: true.",
                param="model",
            )
        return model

    def _locality(self, model: Model) -> Locality | None:
        return locality_of(self._map.catalog.providers[model.provider], model)


class _Unjudged:
    """The catalog of the moment, in which nothing is believed of one model's abilities."""

    def __init__(self, the_map: CapabilityMap, name: str) -> None:
        self._map = the_map
        self._name = name
        self._from: Catalog | None = None

    def __call__(self) -> Catalog:
        now = self._map.catalog
        if now is not self._from:
            self._from = now
            model = replace(_known(now, self._name), facts={})
            self._catalog = replace(now, models={**now.models, model.name: model})
        return self._catalog


def _known(catalog: Catalog, name: str) -> Model:
    model = (catalog.model(name) or catalog.by_id(name)) if name.isprintable() else None
    if model is None:
        raise Refused(
            "model_not_found",
            f"There is no model {name[:200]!r}. GET /v1/models lists what there is.",
            param="model",
        )
    return model


async def _try(
    serve: Serve,
    name: str,
    capability: Capability,
    allow_remote: bool,  # noqa: FBT001 handed on
) -> Verdict:
    """Return what as many trials show as it takes."""
    trials = list(_trials(capability))
    findings: list[Finding] = []
    value = None
    for trial in trials:
        try:
            async with asyncio.timeout(_ASK_S):
                finding = await _asked(serve, name, trial, allow_remote=allow_remote)
        except TimeoutError:
            return _verdict(None, f"it did not answer within {_ASK_S:g} s")
        findings.append(finding)
        value = settled(capability, findings, len(trials))
        if value is not None:
            break
        if capability is Capability.VISION and finding.shown is not Shown.CAN:
            break
    return _verdict(value, findings[-1].why)


def _verdict(value: bool | None, why: str) -> Verdict:  # noqa: FBT001 the verdict is the value
    return Verdict(value, datetime.now(UTC).isoformat(timespec="seconds"), why)


def _trials(capability: Capability) -> Iterator[Trial]:
    """Yield the trials of a capability, in the order in which they are made."""
    match capability:
        case Capability.TEXT:
            yield text_trial()
        case Capability.VISION:
            # Two different ones: a guess is right once in twelve times, a habit never.
            first = secrets.choice(sorted(COLOURS))
            yield vision_trial(first)
            yield vision_trial(secrets.choice(sorted(COLOURS.keys() - {first})))
        case Capability.TOOL_USE:
            number = 1000 + secrets.randbelow(9000)
            yield tool_trial(number, "auto")
            yield tool_trial(number, "required")
        case Capability.STRUCTURED_OUTPUT:
            for _ in range(2):
                yield schema_trial(f"has_{secrets.token_hex(2)}")


async def _asked(serve: Serve, name: str, trial: Trial, *, allow_remote: bool) -> Finding:
    body = {**trial.body, "model": name}
    status, answer = await _answer(serve, body, allow_remote=allow_remote)
    if status == _BAD_REQUEST and "max_tokens" in error_text(answer):
        # Some clouds know it by its newer name alone.
        body["max_completion_tokens"] = body.pop("max_tokens")
        status, answer = await _answer(serve, body, allow_remote=allow_remote)
    return trial.judge(status, answer)


async def _answer(serve: Serve, body: Mapping[str, Any], *, allow_remote: bool) -> tuple[int, Any]:
    """Send one request of our own and return the status and the decoded body of its answer."""
    headers = {PRIORITY.encode(): b"low"}
    if not allow_remote:
        headers[LOCAL_ONLY.encode()] = b"true"
    state = {
        "request_id": f"probe-{secrets.token_hex(8)}",
        "headers": headers,
        "caller": ADMIN,
        "turn": _Patient(asyncio.get_running_loop()),
    }
    received = [{"type": "http.request", "body": msgspec.json.encode(body), "more_body": False}]
    sent: list[Message] = []

    async def receive() -> Message:
        return received.pop()

    async def send(message: Message) -> None:
        sent.append(message)

    await serve({"type": "http", "state": state}, receive, send)
    content = b"".join(message.get("body", b"") for message in sent[1:])
    try:
        return sent[0]["status"], msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return sent[0]["status"], None


class _Patient:
    """Somebody who waits for an answer and does not leave."""

    gone = False

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop

    def when_gone(self, tell: Callable[[], None] | None) -> None:
        """Never call it."""
