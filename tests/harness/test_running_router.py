"""What every in-process test of the router relies on."""

import asyncio
from pathlib import Path

import uvloop

from tests.harness.running_router import running_router


async def test_the_router_runs_on_the_loop_that_it_is_shipped_with(tmp_path: Path) -> None:
    """Its connections, its timers and its server are uvloop's here as they are in the product."""
    async with running_router(tmp_path) as signalbox:
        assert (await signalbox.client.get("/v1/models")).status_code == 200
        (connection,) = signalbox.server.server_state.connections
        assert type(connection.transport).__module__.startswith("uvloop")
        assert isinstance(asyncio.get_running_loop(), uvloop.Loop)
