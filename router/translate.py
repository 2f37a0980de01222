"""Providers of other dialects: LiteLLM turns a chat into theirs, and their answer into a chat's.

It translates and does nothing else. What it sends goes through the provider's own Upstream, so that
TLS, proxies, deadlines and the closing of connections are those of every other provider; it reads
no file of variables, follows no redirect, fetches no picture, tries nothing twice, tells nobody.
It is imported when the first request needs it, in a thread: that takes seconds.
"""

import asyncio
import importlib
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final

from router.body import AT_ONCE
from router.catalog import Provider
from router.errors import TOO_LONG, Refused, RouteFailed, Unasked
from router.litellm_package import NoLiteLLM, find_package
from router.litellm_wire import Wire
from router.stand_ins import StandIns, stand_ins
from router.translatable import check_chat
from router.translation import (
    Untranslatable,
    arguments_of,
    chunk_body,
    error_body,
    event,
    plain_words,
    without,
    words_of,
)
from router.upstream import Answer, Headers, Sink, Upstream, UpstreamRequest

# Looked at while it is imported: no prices and no headers from the network, no picture, no .env.
_ENVIRONMENT: Final = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS": "True",
    "LITELLM_LOCAL_BLOG_POSTS": "True",
    "LITELLM_LOG": "ERROR",
    "LITELLM_MODE": "PRODUCTION",
    "MAX_IMAGE_URL_DOWNLOAD_SIZE_MB": "0",
}
# What variables could have set otherwise, and what would be written or fetched.
_SWITCHES: Final = {
    "disable_hf_tokenizer_download": True,
    "disable_token_counter": True,
    "drop_params": False,
    "modify_params": False,
    "redact_messages_in_exceptions": True,
    "suppress_debug_info": True,
    "telemetry": False,
    "turn_off_message_logging": True,
}
# They may hold prompts, and what there is to say is said by us.
_LOGGERS: Final = ("LiteLLM", "LiteLLM Router", "LiteLLM Proxy")
# Where these are, whatever a variable says.
_ADDRESSES: Final = {
    "anthropic": "https://api.anthropic.com",
    "gemini": "https://generativelanguage.googleapis.com/v1beta",
}
# Where there is no key, lest one be taken from variables, files, or the machine's own metadata.
_NO_KEY: Final = "none"
_OK, _BAD, _SERVER_ERROR, _NO_STATUS = 200, 400, 500, 600
_DONE: Final = event(b"[DONE]")
_JSON: Final = b"application/json"
_EVENTS: Final = b"text/event-stream"


@dataclass(frozen=True, slots=True)
class Library:
    """LiteLLM and what belongs to it, as it is used here."""

    litellm: Any
    httpx: Any
    client: Any
    errors: tuple[type[Exception], ...]


def load() -> Library:
    """Import LiteLLM with everything switched off that is not translation; NoLiteLLM without it.

    Blocks, for seconds the first time.
    """
    find_package()
    os.environ.update(_ENVIRONMENT)  # noqa: TID251 it has no other way to be told
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    try:
        litellm = importlib.import_module("litellm")
        handler = importlib.import_module("litellm.llms.custom_httpx.http_handler")
        httpx = importlib.import_module("httpx")
    except ImportError as error:
        raise NoLiteLLM(f"LiteLLM cannot be imported: {error}") from error
    for name, value in _SWITCHES.items():
        setattr(litellm, name, value)
    errors = (*litellm.LITELLM_EXCEPTION_TYPES, httpx.HTTPError)
    return Library(litellm, httpx, handler.AsyncHTTPHandler, errors)


class TranslatedUpstream:
    """A provider that is spoken to by LiteLLM, through `carrier`.

    `options` are arguments of LiteLLM's for this provider, a region for one. `size` bounds a whole
    answer, in bytes.
    """

    def __init__(
        self, provider: Provider, carrier: Upstream, options: Mapping[Any, str], size: int
    ) -> None:
        self.provider = provider
        self.carrier = carrier
        self.active = 0
        self.options = options
        self.size = size
        self._library: Library | None = None

    def __repr__(self) -> str:
        return f"<TranslatedUpstream {self.provider.name} active={self.active}>"

    def exchange(self, request: UpstreamRequest) -> "TranslatedExchange":
        """Return the exchange for one request; nothing is sent before it is entered."""
        return TranslatedExchange(self, request)

    async def library(self) -> Library:
        """Return LiteLLM, imported in a thread by the first who asks; RouteFailed without it."""
        if self._library is None:
            try:
                self._library = await asyncio.to_thread(load)
            except NoLiteLLM as error:
                raise RouteFailed(
                    "provider_unavailable", f"{self.provider.name} cannot be asked: {error}."
                ) from error
        return self._library

    async def aclose(self) -> None:
        """Close every connection."""
        await self.carrier.aclose()


class TranslatedExchange:
    """One chat on its way through LiteLLM."""

    def __init__(self, upstream: TranslatedUpstream, request: UpstreamRequest) -> None:
        self._upstream = upstream
        self._request = request
        self._wire: Wire | None = None
        self._stream: Any = None

    @property
    def asked(self) -> bool:
        """Whether the provider may have seen something of the request."""
        return self._wire is not None and self._wire.asked

    async def __aenter__(self) -> Answer:
        """Have the chat translated and sent, and return the head of the answer."""
        self._upstream.active += 1
        try:
            return await self._ask(await self._upstream.library())
        except BaseException:
            await self._leave()
            raise

    async def _ask(self, library: Library) -> Answer:
        upstream = self._upstream
        name, provider = upstream.provider.name, upstream.provider
        try:
            model, told, pictures = await self._understood()
        except (Untranslatable, Refused) as error:
            raise _unasked(name, error) from None
        make = library.httpx.Response
        self._wire = wire = Wire(name, upstream.carrier, upstream.size, make, pictures.put_back)
        try:
            answer = await library.litellm.acompletion(
                **told,
                model=f"{provider.cloud}/{model}",
                api_key=provider.api_key or _NO_KEY,
                api_base=provider.base_url or _ADDRESSES.get(str(provider.cloud)),
                extra_headers=dict(provider.headers) or None,
                num_retries=0,
                max_retries=0,
                # Else a tool of any kind would have it import its proxy.
                _skip_mcp_handler=True,
                **upstream.options,
                client=library.client(transport=wire, follow_redirects=False),
            )
        except library.errors as error:
            return self._failed(error, wire, library)
        if told.get("stream"):
            self._stream = answer
            return TranslatedStream(answer, wire, upstream.provider, library.errors)
        return Whole(_OK, wire.told(_JSON), answer.model_dump_json(warnings=False).encode())

    async def _understood(self) -> tuple[str, dict[str, Any], StandIns]:
        """Return the model, what LiteLLM is told, and what it is not.

        Raises Untranslatable or Refused.
        """
        body, cloud = self._request.body, self._upstream.provider.cloud
        if len(body) <= AT_ONCE:
            return _understood(body, cloud)
        return await asyncio.to_thread(_understood, body, cloud)

    def _failed(self, error: Exception, wire: Wire, library: Library) -> Answer:
        """Return what a failure of LiteLLM's means; RouteFailed where there was no answer.

        One that is Unasked where LiteLLM sent nothing.
        """
        if wire.failure is not None:
            raise wire.failure from error.with_traceback(None)
        provider = self._upstream.provider
        status = _status(error)
        if wire.status is None and not wire.asked:
            raise self._refused(error, library)
        if wire.status is None or wire.status < _BAD:
            raise RouteFailed(
                "upstream_invalid_response",
                f"What {provider.name} was asked, or answered, could not be translated: "
                f"{_text(error, provider)}",
                quotes=True,
                may_have_run=wire.asked,
            )
        said, name = words_of(wire.error)
        text = without(provider.api_key, said) or _text(error, provider)
        too_long = isinstance(error, library.litellm.ContextWindowExceededError)
        return _refusal(status, text, TOO_LONG if too_long else name, wire.told(_JSON))

    def _refused(self, error: Exception, library: Library) -> Unasked:
        """Return what it means that LiteLLM fails over a request before anything is sent."""
        provider, litellm = self._upstream.provider, library.litellm
        if any(isinstance(cause, litellm.ImageFetchError) for cause in _causes(error)):
            return Unasked(
                "image_url_not_allowed",
                f"{provider.name} takes no such picture or file by its address, and nothing is "
                "fetched for it here. Send it itself, as a data: URI.",
            )
        why = _text(error, provider)
        if _is_mistake(error):
            return Unasked(
                "internal_error",
                f"LiteLLM failed over this request, and {provider.name} was not asked: {why}",
                quotes=True,
            )
        unsupported = isinstance(error, litellm.UnsupportedParamsError)
        return Unasked(
            "unsupported_parameter" if unsupported else "invalid_request",
            f"The request cannot be translated for {provider.name}: {why}",
            quotes=True,
        )

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the connection unless its answer was read to the end, and LiteLLM's stream."""
        await self._leave()

    async def _leave(self) -> None:
        self._upstream.active -= 1
        if self._wire is not None:
            await self._wire.leave()
        if self._stream is not None:
            await self._stream.aclose()


class Whole:
    """An answer that is there as a whole."""

    def __init__(self, status: int, headers: Headers, body: bytes) -> None:
        self.status = status
        self.headers = headers
        self._body = body

    def __repr__(self) -> str:
        return f"<Whole {self.status}>"

    async def read(self) -> bytes:
        """Return the body, then that there is no more."""
        body, self._body = self._body, b""
        return body

    async def flow(self, sink: Sink) -> None:
        """Hand the body over."""
        await sink.take(await self.read())


class TranslatedStream:
    """A stream of LiteLLM's as the events of OpenAI's protocol."""

    status = _OK

    def __init__(
        self, chunks: Any, wire: Wire, provider: Provider, errors: tuple[type[Exception], ...]
    ) -> None:
        self.headers = wire.told(_EVENTS)
        self._chunks = chunks
        self._wire = wire
        self._provider = provider
        self._errors = errors
        self._over = False

    def __repr__(self) -> str:
        return f"<TranslatedStream from {self._provider.name} over={self._over}>"

    async def read(self) -> bytes:
        """Return the next event; RouteFailed where the provider's stream broke, or just ended."""
        if self._over:
            return b""
        try:
            chunk = await anext(self._chunks)
        except StopAsyncIteration:
            self._over = True
            return _DONE
        except self._errors as error:
            self._over = True
            return self._broken(error)
        if any(choice.finish_reason for choice in chunk.choices):
            self._check_end()
        told = chunk.model_dump(mode="json", exclude_none=True, warnings=False)
        return event(chunk_body(told))

    def _check_end(self) -> None:
        """Raise RouteFailed where the reason to finish is LiteLLM's invention.

        It says "stop" whenever a stream is over, also one that was cut.
        """
        chunks = self._chunks
        if chunks.received_finish_reason is None and chunks.intermittent_finish_reason is None:
            self._over = True
            raise RouteFailed(
                "upstream_reset",
                f"{self._provider.name} ended its stream before its answer was complete.",
                may_have_run=True,
            )

    def _broken(self, error: Exception) -> bytes:
        """Return the provider's own error, as an event; RouteFailed for a broken connection."""
        if self._wire.failure is not None:
            raise self._wire.failure from error.with_traceback(None)
        return event(error_body(_status(error), _text(error, self._provider), None))

    async def flow(self, sink: Sink) -> None:
        """Hand the events over as they come."""
        while not sink.over and (data := await self.read()):
            await sink.take(data)


def _understood(body: bytes, cloud: str | None) -> tuple[str, dict[str, Any], StandIns]:
    model, told = arguments_of(body)
    check_chat(told)
    return model, told, stand_ins(told, cloud)


def _refusal(status: int, text: str, code: str | None, headers: Headers = ()) -> Answer:
    return Whole(status, headers or ((b"content-type", _JSON),), error_body(status, text, code))


def _unasked(provider: str, error: Untranslatable | Refused) -> Unasked:
    text = f"The request cannot be translated for {provider}: {error}"
    if isinstance(error, Refused):
        return Unasked(error.code, text, param=error.param, quotes=True)
    return Unasked("unsupported_parameter", text, quotes=True)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _is_mistake(error: Exception) -> bool:
    """Tell whether LiteLLM fell over its own code, and did not refuse anything.

    It wraps both alike, by any status: what tells is what it wraps. Its own classes refuse, and so
    does a plain Exception, which no interpreter raises.
    """
    for cause in _causes(error):
        if type(cause).__module__.partition(".")[0] != "litellm":
            return type(cause) is not Exception
    return False


def _status(error: Exception) -> int:
    status = getattr(error, "status_code", None)
    return status if isinstance(status, int) and _BAD <= status < _NO_STATUS else _SERVER_ERROR


def _text(error: Exception, provider: Provider) -> str:
    told = getattr(error, "message", None) or str(error)
    return without(provider.api_key, plain_words(str(told)))
