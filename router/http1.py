"""HTTP/1.1 from our clients: uvicorn's place for a protocol, filled by one that is strict.

llhttp refuses what two parsers could read differently; what it lets pass and we do not is refused
here: codings other than chunked, an authority that is not the Host, heads and framing without end.
Every refusal is OpenAI's envelope. An upgrade is ignored, as HTTP allows: nothing here can switch.
"""

import asyncio
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast
from urllib.parse import unquote

import httptools
from uvicorn.config import Config
from uvicorn.server import ServerState

from router.deadline import Sweeper
from router.errors import Refused, SignalboxError, shutting_down
from router.fields import field_lines
from router.outbox import Outbox, Writer
from router.request import told
from router.turn import Turn, refusal

# Longer than our clients keep an idle connection, so that it is they who close it.
_KEEP_ALIVE_S = 75.0
# For how long what a client still sends is thrown away after its last answer.
_LINGER_S = 1.0
_MAX_URL = 8 << 10
_MAX_HEADERS = 200
# Unread body bytes that are held; then the client has to wait.
_HIGH_WATER = 256 << 10
# What the framing of one chunk takes: its size, two line ends.
_CHUNK_FRAME = 24
_MAX_PIPELINED = 16
_UPGRADE_HEADERS = frozenset({b"upgrade", b"connection", b"http2-settings"})


@dataclass(frozen=True, slots=True)
class Rules:
    """How long a request may take to arrive, in seconds, and how large its head may be, in bytes.

    `send_stall_s` bounds how long a client may leave an answer unread.
    """

    header_s: float
    body_s: float
    send_stall_s: float
    header_bytes: int


class Http1(asyncio.Protocol):
    """One connection of a client: its requests, answered in the order in which they came."""

    def __init__(
        self,
        rules: Rules,
        sweeper: Sweeper,
        outbox: Outbox,
        *,
        config: Config,
        server_state: ServerState,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.app = config.loaded_app
        self._rules = rules
        self.server_state = server_state
        self._parser = httptools.HttpRequestParser(self)
        self._receiving = sweeper.alarm(self._too_slow)
        self.writer = Writer(outbox, sweeper, rules.send_stall_s)
        # The turns that are not over, oldest first: it alone is being answered.
        self.turns: deque[Turn] = deque()
        # The one whose body is coming in.
        self._incoming: Turn | None = None
        self._last_words: bytes | None = None
        self._deaf = False
        self._paused = self._holding_back = False
        self._fresh()

    def __repr__(self) -> str:
        return f"<Http1 turns={len(self.turns)} deaf={self._deaf}>"

    def _fresh(self) -> None:
        """Begin a request's head."""
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        # Bytes that came and are no body.
        self._overhead = 0
        self._is_chunked = False
        self._upgrading = False

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport; a client that says nothing is not kept."""
        # uvloop's transports are of no class of asyncio's.
        self.transport = cast("asyncio.Transport", transport)
        self.writer.open(self.transport)
        self.server_state.connections.add(self)  # type: ignore[arg-type]  # one of uvicorn's own
        self._client = self.transport.get_extra_info("peername")
        self._server = self.transport.get_extra_info("sockname")
        self._receiving.set(self._rules.header_s)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 asyncio's signature
        """Forget the connection."""
        self.server_state.connections.discard(self)
        self._receiving.close()
        self.writer.close()
        self._leave()

    def _leave(self) -> None:
        """Tell every request that its client has gone."""
        self._deaf = True
        for turn in self.turns:
            turn.leave()
        self.turns.clear()
        # The parser holds us, and we hold it: no body has to wait for the collector with us.
        self._incoming, self._holding_back = None, False

    def data_received(self, data: bytes) -> None:
        """Parse what came."""
        if self._deaf:
            return
        self._overhead += len(data)
        try:
            self._parser.feed_data(data)
            self._check_overhead()
        except httptools.HttpParserUpgrade as upgrade:
            offset: int = upgrade.args[0]
        except httptools.HttpParserCallbackError as error:
            refused = error.__context__
            if not isinstance(refused, Refused):
                raise
            self._refuse(refused)
            return
        except httptools.HttpParserError as error:
            self._refuse(Refused("invalid_request", f"This is not valid HTTP/1.1: {error}"))
            return
        except Refused as refused:
            self._refuse(refused)
            return
        else:
            self._wait_for_more()
            return
        # Out here, as the parser's errors would else have that one for their context.
        self._ignore_upgrade(data[offset:])

    def _check_overhead(self) -> None:
        """Bound what is no body: a head without end, or trailers and extensions of chunks."""
        if self._overhead <= self._rules.header_bytes:
            return
        if self._incoming is None:
            raise self._too_large()
        if self._is_chunked:
            raise Refused("invalid_request", "The body has more framing than content.")

    def _too_large(self) -> Refused:
        limit = self._rules.header_bytes
        return Refused("headers_too_large", f"The request's head is larger than {limit} bytes.")

    def _wait_for_more(self) -> None:
        """Let the body, or a head that has begun, arrive in time; else wait for a next request."""
        turn = self._incoming
        if turn is not None:
            if turn.held > _HIGH_WATER:
                self._pause()
            if not turn.timed:
                turn.timed = True
                self._receiving.set(self._rules.body_s)
        elif self.turns:
            self._receiving.silence()
        elif self._overhead and self._receiving.due > self.loop.time() + self._rules.header_s:
            self._receiving.set(self._rules.header_s)

    def eof_received(self) -> None:
        """Take a half-closed connection for a closed one, which was to be answered before."""
        self._leave()
        self.writer.end()

    def pause_writing(self) -> None:
        """Hold answers back, but not for ever."""
        self.writer.pause()

    def resume_writing(self) -> None:
        """Let answers flow again, and begin the one that had to wait for that."""
        self.writer.resume()
        if self._holding_back:
            self._start()

    def _pause(self) -> None:
        if not self._paused:
            self._paused = True
            self.transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        if self._paused and not self.transport.is_closing():
            self._paused = False
            self.transport.resume_reading()

    # httptools

    def on_url(self, url: bytes) -> None:
        """Add a piece of the request's target."""
        self._url += url
        if len(self._url) > _MAX_URL:
            raise Refused("invalid_request", f"The URL is longer than {_MAX_URL} bytes.")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header; trailers are dropped."""
        if self._incoming is None:
            self._headers.append((name.lower(), value))

    def on_chunk_header(self) -> None:
        """Forgive a chunk its framing."""
        self._overhead -= _CHUNK_FRAME

    def on_headers_complete(self) -> None:
        """Begin a request, unless its head is one that could be misread."""
        parser, headers = self._parser, self._headers
        method: str = parser.get_method().decode("ascii")
        if parser.should_upgrade() and method != "CONNECT":
            self._upgrading = True
            return
        fields = told(headers)
        version: str = parser.get_http_version()
        coding = fields.get(b"transfer-encoding")
        if coding is not None and (version != "1.1" or coding.lower() != b"chunked"):
            raise Refused("invalid_request", "The only transfer coding that is taken is chunked.")
        # What came with it may be body, but is no less than the head, unless another request came
        # before it: that one's end has set the count to nothing.
        if self._overhead > self._rules.header_bytes or coding is not None or self.turns:
            self._weigh_head()
        if len(headers) > _MAX_HEADERS:
            raise self._too_large()
        path, query = self._target(fields)
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": version,
            "server": self._server,
            "client": self._client,
            "scheme": "http",
            "method": method,
            "root_path": "",
            "path": path if "%" not in path else unquote(path),
            "raw_path": path.encode("ascii"),
            "query_string": query,
            "headers": headers,
            "state": {"headers": fields},
        }
        keep_alive = version == "1.1" and parser.should_keep_alive()
        turn = Turn(self, scope, keep_alive=keep_alive)
        if len(self.turns) >= _MAX_PIPELINED:
            raise Refused("invalid_request", f"More than {_MAX_PIPELINED} requests at once.")
        self.turns.append(turn)
        self._incoming = turn
        self._is_chunked = coding is not None
        if len(self.turns) == 1:
            self._start()

    def _weigh_head(self) -> None:
        """Refuse a head that is too large, and take it off what is counted."""
        headers = self._headers
        size = sum([len(name) + len(value) for name, value in headers]) + 4 * len(headers)
        if size > self._rules.header_bytes:
            raise self._too_large()
        self._overhead -= size + len(self._url)

    def _target(self, fields: Mapping[bytes, bytes]) -> tuple[str, bytes]:
        """Return path and query of the target, which may only name the Host that was named."""
        raw = self._url
        if not raw.startswith(b"/") and raw != b"*":
            scheme, _, rest = raw.partition(b"://")
            authority, slash, rest = rest.partition(b"/")
            # Two of them were joined by a comma, which no authority has.
            if scheme.lower() != b"http" or fields.get(b"host") != authority or b"," in authority:
                raise Refused("invalid_request", "The request's target is not a path of this host.")
            raw = slash + rest or b"/"
        path, _, query = raw.partition(b"?")
        return path.partition(b"#")[0].decode("ascii"), query

    def on_body(self, data: bytes) -> None:
        """Hand a piece of the body on."""
        turn = self._incoming
        if turn is not None:
            self._overhead -= len(data)
            turn.feed(data)

    def on_message_complete(self) -> None:
        """End the request that came in and make ready for the next."""
        turn, self._incoming = self._incoming, None
        if turn is not None:
            turn.complete()
            if not turn.keep_alive:
                self._deaf = True
        if not self._upgrading:
            self._fresh()

    # What ends a connection

    def _ignore_upgrade(self, rest: bytes) -> None:
        """Take the request again without its wish to switch; llhttp stops reading at one."""
        kept = [pair for pair in self._headers if pair[0] not in _UPGRADE_HEADERS]
        parser = self._parser
        version = parser.get_http_version().encode()
        line = b"%b %b HTTP/%b\r\n" % (parser.get_method(), self._url, version)
        head = line + field_lines(kept) + b"\r\n"
        self._parser = httptools.HttpRequestParser(self)
        self._fresh()
        self.data_received(head + rest)

    def _refuse(self, refused: SignalboxError) -> None:
        """Answer what cannot be read, once what came before it is answered, and close."""
        if self._deaf:
            return
        self._deaf = True
        self._receiving.silence()
        turn = self._incoming
        if turn is not None:
            # Its head was fine; whoever reads the body is told.
            turn.fail(refused)
            return
        self._last_words = refusal(refused)
        if not self.turns:
            self._say_last_words()

    def _say_last_words(self) -> None:
        """End the connection so that the client can read what was said last.

        Closed at once, unread bytes would make the kernel reset it, and the answer be lost.
        """
        if self._last_words is not None:
            self.writer.write(self._last_words)
        self.writer.flush()
        self._deaf = True
        self._incoming = None
        self._overhead = 0
        if not self.transport.is_closing():
            self.resume()
            self.transport.write_eof()
            self._receiving.set(_LINGER_S)

    def _too_slow(self) -> None:
        """End a request that does not arrive, or a connection on which none was begun."""
        turn = self._incoming
        if turn is not None:
            self._refuse(
                Refused(
                    "request_timeout", f"The body did not arrive within {self._rules.body_s:g} s."
                )
            )
        elif self._overhead and not self.turns:
            self._refuse(Refused("request_timeout", "The request's head did not arrive in time."))
        else:
            self.writer.end()

    def shutdown(self) -> None:
        """Close when idle, else after the answer that is under way.

        A request that is still arriving is refused: nothing was done for it yet.
        """
        if self._incoming is not None:
            self._refuse(shutting_down())
        elif self.turns:
            self._deaf = True
            self.turns[-1].keep_alive = False
        else:
            self.writer.end()

    def _start(self) -> None:
        """Begin with the oldest turn, once the client has taken most of the answer before."""
        self._holding_back = self.writer.paused
        if not self._holding_back:
            self.turns[0].start()

    def over(self, turn: Turn, *, clean: bool) -> None:
        """Go on after an answer: with the next request, or by closing."""
        if not self.turns or self.turns[0] is not turn:
            return
        self.turns.popleft()
        if not clean:
            # An error frame may be on its way.
            self.writer.flush()
            self.transport.abort()
            return
        # What was not read of a request would be taken for the next one.
        if self._incoming is turn or not turn.keep_alive:
            self._say_last_words()
        elif self.turns:
            self._start()
        elif self._last_words is not None:
            self._say_last_words()
        else:
            # The next one may have begun already.
            self._receiving.set(self._rules.header_s if self._url else _KEEP_ALIVE_S)
