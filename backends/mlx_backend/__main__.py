"""`python -m backends.mlx_backend`: the process that owns the GPU context.

With `--socket-fd` it serves on a socket that its parent bound and listens on; with `--ready-fd` it
tells its parent how it gets on, one JSON object a line: `{"progress": …}` while it imports,
`{"ready": true}` once MLX has evaluated something and HTTP is served, `{"failed": …}` before it
exits; and from then on what becomes of models: `model_load`, `model_loaded`, `model_load_failed`
and `model_unloaded`, with the fields of the types in `backends.wire`.
"""

import argparse
import asyncio
import logging
import os
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn

from backends.catalogue import ModelFolders
from backends.mlx_backend.app import create_app
from backends.mlx_backend.conversation import MAX_IMAGE_MB
from backends.mlx_backend.delivery import Delivery
from backends.mlx_backend.desk import Desk
from backends.mlx_backend.hang_watch import Hang, HangWatch
from backends.mlx_backend.inbox import Deadlines
from backends.mlx_backend.parent import Parent
from backends.mlx_backend.passed_tests import PassedTests
from backends.mlx_backend.scheduler import Limits, Scheduler
from backends.mlx_backend.trace import Trace
from backends.places import hub_caches, user_folder

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from backends.mlx_backend.engine import Engine

log = logging.getLogger("backends.mlx_backend")

TOKEN_VARIABLE = "SIGNALBOX_BACKEND_TOKEN"  # noqa: S105  the name of a variable
# Read by the libraries when they are imported: nothing may ever open a connection.
_OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
_PASSED = "passed-self-tests.json"
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
# Both together stay below the ten seconds after which a process manager kills.
_DRAIN_S = 2
_STEP_ENDS_S = 5.0
# Longer than a client keeps a connection that it does not use, so that the client closes first:
# a request on a connection that is just being closed here would be lost.
_KEEP_ALIVE_S = 300


class StartError(Exception):
    """The process cannot serve, or no longer; the text says why."""


class Server(uvicorn.Server):
    """A server that ends the generations in flight before it waits for their connections."""

    def __init__(self, app: "ASGIApp", desk: Desk, on_started: Callable[[], None]) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                lifespan="off",
                ws="none",
                http="httptools",
                access_log=False,
                log_config=None,
                proxy_headers=False,
                server_header=False,
                timeout_graceful_shutdown=_DRAIN_S,
                timeout_keep_alive=_KEEP_ALIVE_S,
            )
        )
        self._desk = desk
        self._on_started = on_started

    def stop(self) -> None:
        """Stop accepting soon, and end; from any thread, at any time."""
        self.should_exit = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop on a signal, at once on the second.

        Not uvicorn's own: that raises the signal again at the end, which would kill the MLX thread
        before it has cleaned up.
        """
        del sig, frame
        self.force_exit = self.should_exit
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to accept."""
        await super().startup(sockets)
        self._on_started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting; streams in flight end with an error frame."""
        self._desk.stop()
        await super().shutdown(sockets)


class EngineThread(threading.Thread):
    """The MLX thread; `wait_ready` returns once it has evaluated something, or raises.

    `on_end` is called on this thread when it ends, asked or not.
    """

    def __init__(self, engine: "Engine", on_end: Callable[[], object]) -> None:
        super().__init__(name="mlx", daemon=True)
        self._engine = engine
        self._on_end = on_end
        self._settled = threading.Event()
        self._ready = False
        self.failed = False

    def run(self) -> None:
        """Serve until the engine is stopped."""
        try:
            self._engine.run(self._on_ready)
        except BaseException:
            self.failed = True
            raise
        finally:
            self._settled.set()
            self._on_end()

    def _on_ready(self) -> None:
        self._ready = True
        self._settled.set()

    def wait_ready(self) -> None:
        """Wait for the first evaluation; StartError where it failed."""
        self._settled.wait()
        if not self._ready:
            raise StartError("MLX cannot compute on this machine; the log has the reason")


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m backends.mlx_backend", description=__doc__)
    add = parser.add_argument
    add("--host", default="127.0.0.1")
    add("--port", type=int, default=60316)
    add("--socket-fd", type=int, help="serve on this inherited, listening socket")
    add("--ready-fd", type=int, help="tell the parent here how the start goes")
    add("--models-dir", type=Path, help="one folder an alias; default: the user's data folder")
    add("--model-folder", action="append", default=[], metavar="NAME=PATH", type=_named_folder)
    add("--hf-cache", action="append", default=[], type=Path, help="a Hugging Face hub cache")
    add("--cache-dir", type=Path, help="what is only kept to save time; default: beside them")
    add("--model", help="load this model at the start")
    add("--active", type=int, default=4, help="rows that run at once")
    add("--reserve-high", type=int, default=1, help="of these, kept free of LOW")
    add("--max-low", type=int, default=3, help="of these, LOW at most")
    add("--queue", type=int, default=256, help="how many requests may wait")
    add("--queue-s", type=float, default=120, help="how long one may wait")
    add("--queue-idle-stop-s", type=float, default=60, help="rest after so long without work")
    add("--idle-unload-s", type=float, default=900)
    add("--memory-mb", type=int, help="what all models together may take; default: by the machine")
    add("--prefill-chunk-ms", type=float, default=100)
    add("--kv-bits", type=int, choices=(2, 3, 4, 6, 8), help="quantize the rows' caches")
    add("--max-image-mb", type=float, default=MAX_IMAGE_MB, help="larger files are refused")
    add("--max-side-px", type=int, default=1920, help="pictures are scaled down to this")
    add("--max-megapixels", type=int, default=50, help="larger pictures are refused")
    add("--trace", type=Path, help="write what each step did into this file, for Perfetto")
    add("--token-deadline-s", type=float, default=30, help="from step to step of a generation")
    add("--load-stall-s", type=float, default=120, help="a load that does not go on")
    add("--total-deadline-s", type=float, default=3600, help="a generation in all")
    return parser.parse_args(arguments)


def _named_folder(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if not name or not equals or not path:
        raise argparse.ArgumentTypeError("expected NAME=PATH")
    return name, Path(path)


def _listen(options: argparse.Namespace) -> socket.socket:
    listening = _bound(options)
    # Accepted connections inherit it. Python's asyncio sets it only where the socket says that it
    # is TCP's, which one made by create_server does not: every small answer would wait 40 ms.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def _bound(options: argparse.Namespace) -> socket.socket:
    if options.socket_fd is not None:
        listening = socket.socket(fileno=options.socket_fd)
        listening.set_inheritable(False)
        return listening
    try:
        return socket.create_server((options.host, options.port), backlog=1024)
    except OSError as error:
        where = f"{options.host}:{options.port}"
        raise StartError(f"cannot listen on {where}: {error.strerror or error}") from error


def _build_engine(
    options: argparse.Namespace, parent: Parent, delivery: Delivery
) -> tuple[Desk, "Engine"]:
    # mlx and what stands on it take seconds to import, and must find the variables set.
    parent.tell(progress="importing MLX")
    try:
        import_module("mlx.core")
        parent.tell(progress="importing mlx-vlm")
        import_module("mlx_vlm.generate")
        parent.tell(progress="importing the engine")
        engine = import_module("backends.mlx_backend.engine")
        loaded = import_module("backends.mlx_backend.loaded")
        images = import_module("backends.mlx_backend.images")
    except ImportError as error:
        raise StartError(f"MLX is not installed for this Python: {error}") from error
    models = loaded.LoadedModels(
        chunk_s=options.prefill_chunk_ms / 1000,
        memory_mb=options.memory_mb,
        kv_bits=options.kv_bits,
        passed=None if options.cache_dir is None else PassedTests(options.cache_dir / _PASSED),
        image_limits=images.ImageLimits(
            max_side_px=options.max_side_px, max_pixels=options.max_megapixels * 1_000_000
        ),
    )
    limits = Limits(
        active=options.active,
        # With one row at a time there is nothing to reserve.
        reserve_high=min(options.reserve_high, options.active - 1),
        max_low=options.max_low,
        queue=options.queue,
        idle_unload_s=options.idle_unload_s,
        queue_idle_stop_s=options.queue_idle_stop_s,
        memory_mb=models.weights_mb,
        caches_mb=models.caches_mb,
    )
    trace = None if options.trace is None else Trace(options.trace)
    desk = Desk(Scheduler(limits), trace=trace)
    return desk, engine.Engine(desk, models, trace, parent.tell_news, together=delivery.together)


def _complete(options: argparse.Namespace, environ: Mapping[str, str]) -> None:
    """Fill in where models lie, for a process that nobody's parent told."""
    if options.models_dir is None:
        data = user_folder(sys.platform, environ, config=False)
        if data is None:
            raise StartError("this user has no home folder: name the models' with --models-dir")
        options.models_dir = data / "models"
        options.cache_dir = options.cache_dir or data / "cache"
        options.hf_cache = [*options.hf_cache, *hub_caches(environ)]


def _folders(options: argparse.Namespace) -> ModelFolders:
    return ModelFolders(options.models_dir, dict(options.model_folder), tuple(options.hf_cache))


async def _serve(server: Server, desk: Desk, listening: socket.socket, watch: HangWatch) -> None:
    """Serve until told to stop; where something hangs, this does not return."""

    async def stop_when_it_hangs() -> Hang:
        hang = await watch.wait(desk)
        desk.stop(hang.error)
        server.stop()
        return hang

    watching = asyncio.get_running_loop().create_task(stop_when_it_hangs())
    try:
        await server.serve(sockets=[listening])
    finally:
        watching.cancel()
        await asyncio.wait({watching})
    if not watching.cancelled():
        # The last line, for whoever looks there. Nothing is waited for: the MLX thread will not
        # end, and whoever was served has heard of it.
        log.error("%s; this process ends", watching.result().text)
        logging.shutdown()
        os._exit(1)


def run(options: argparse.Namespace, token: str | None, parent: Parent) -> None:
    """Serve until a signal comes; StartError where that is not possible."""
    if token is None and options.socket_fd is None and options.host not in _LOOPBACK:
        text = f"set {TOKEN_VARIABLE} to serve on {options.host}, which is not this machine alone"
        raise StartError(text)
    listening = _listen(options)
    delivery = Delivery()
    desk, engine = _build_engine(options, parent, delivery)
    folders = _folders(options)
    if options.model is not None:
        folder = folders.find(options.model)
        if folder is None:
            text = f"--model {options.model}: there is no such model on this machine"
            raise StartError(f"{text}; fetch it: signalbox models pull {options.model}")
        desk.preload(options.model, folder)
    deadlines = Deadlines(options.token_deadline_s, options.total_deadline_s, options.queue_s)
    app = create_app(
        desk,
        folders,
        token=token,
        deadlines=deadlines,
        delivery=delivery,
        max_image_mb=options.max_image_mb,
    )
    server = Server(app, desk, on_started=lambda: parent.tell(ready=True))
    # Without its MLX thread this process is of no use: it ends, and is started again.
    thread = EngineThread(engine, on_end=server.stop)
    thread.start()
    thread.wait_ready()
    watch = HangWatch(options.token_deadline_s, options.load_stall_s)
    asyncio.run(_serve(server, desk, listening, watch))
    desk.stop()
    # Loaded model and streams are given back there; the interpreter must not end before.
    thread.join(_STEP_ENDS_S)
    if thread.is_alive():
        # No Python call can interrupt a step that hangs.
        log.error("a step did not end within %s s; leaving without it", _STEP_ENDS_S)
        os._exit(1)
    if thread.failed:
        raise StartError("the MLX thread failed; the log has the reason")


def main() -> int:
    """Run the process; returns its exit status."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    options = parse_arguments()
    # The environment enters here and nowhere else; the token leaves it, so that nothing that is
    # started or logged later can show it.
    environment = os.environ  # noqa: TID251  see above
    token = environment.pop(TOKEN_VARIABLE, None) or None
    environment.update(_OFFLINE)
    parent = Parent(options.ready_fd)
    try:
        _complete(options, environment)
        run(options, token, parent)
    except StartError as error:
        log.error("%s", error)  # noqa: TRY400  the text says it all
        parent.tell(failed=str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
