"""A whole router on a real socket, in the test's own loop, so that its invariants can be seen."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from router.app import Router
from router.data_folder import DataFolder
from router.images.network import Network
from router.images.sources import SYSTEM
from router.server import Server, bind
from router.settings import access_keys, load
from tests.harness.authority import NO_AUTHORITIES


@dataclass(frozen=True)
class RunningRouter:
    """A router that serves on `port`."""

    router: Router
    server: Server
    port: int
    client: httpx2.AsyncClient

    @property
    def url(self) -> str:
        """What an SDK gets as its base_url."""
        return f"http://127.0.0.1:{self.port}/v1"

    async def chat(self, body: Any, **headers: str) -> httpx2.Response:
        """Post a chat completion request."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        told = {"content-type": "application/json", **headers}
        return await self.client.post("/v1/chat/completions", content=content, headers=told)


def openai_provider(url: str, **more: Any) -> dict[str, Any]:
    """Return the settings of a provider that speaks OpenAI's protocol."""
    return {"kind": "openai", "base_url": url, **more}


@asynccontextmanager
async def running_router(
    folder: Path,
    *,
    environ: Mapping[str, str] | None = None,
    places: int = 10_000,
    watch_s: float = 60.0,
    network: Network = SYSTEM,
    **sections: Any,
) -> AsyncIterator[RunningRouter]:
    """Run a router whose configuration file holds `sections`; on leaving nothing may be left.

    Sections that are not given are the packaged default's, but nothing is bound and no provider is
    there. `places` is how many clients may be connected at a time, `watch_s` how often it looks
    whether the file has changed, `network` where pictures are fetched from.
    """
    config = save(folder, **sections)
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(folder), **(environ or {})}
    settings = load(config, {"data_dir": str(folder / "data")}, environment)
    keys = access_keys(settings, environment)
    with DataFolder(settings.data_folder) as data, bind(settings.server.host, 0) as listener:
        running = Router(settings, environment, data, keys, watch_s=watch_s, network=network)
        async with running as router:
            server = router.server(places)
            serving = asyncio.create_task(server.serve(sockets=[listener]))
            port = listener.getsockname()[1]
            client = httpx2.AsyncClient(
                base_url=f"http://127.0.0.1:{port}",
                trust_env=False,
                timeout=30,
                verify=NO_AUTHORITIES,
                # Who waits for a connection of the client's own is not seen by the router.
                limits=httpx2.Limits(max_connections=None),
            )
            try:
                async with client:
                    yield RunningRouter(router, server, port, client)
                    # What it asks beside all requests is no leak.
                    await router.discovery.aclose()
                    await idle(router)
            finally:
                server.stop()
                await serving
            assert_idle(router)


def save(folder: Path, **sections: Any) -> Path:
    """Write the configuration file as an editor does: another one takes its name at once."""
    tree = {"providers": {}, "models": {}, "aliases": {}, "capabilities": {}, **sections}
    tree["server"] = {"port": 0, **tree.get("server", {})}
    # What a test's provider sees is what the test sends, unless it says otherwise.
    tree.setdefault("discovery", {"every_s": None})
    config = folder / "router.yaml"
    draft = folder / "router.yaml.new"
    # JSON is YAML.
    draft.write_text(json.dumps(tree), encoding="utf-8")
    return draft.replace(config)


async def idle(router: Router, within_s: float = 2.0) -> None:
    """Return when nothing is in flight any more."""
    async with asyncio.timeout(within_s):
        while len(router.in_flight) or any(
            reach.upstream.active for reach in router.reaches.values()
        ):
            await asyncio.sleep(0.005)


def assert_idle(router: Router) -> None:
    """Check that no request, place or connection is held."""
    assert len(router.in_flight) == 0
    assert router.buffered.held == 0
    for name, reach in router.reaches.items():
        assert reach.upstream.active == 0, name
        if reach.admission is not None:
            assert (reach.admission.lane.running, reach.admission.lane.waiting) == (0, 0), name
