"""The ways to providers, as they come and go."""

import json
import ssl
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from router.catalog import Kind, Locality, Provider
from router.reaches import Reaches
from router.settings import Settings, load
from router.upstream.tls import AiohttpUpstream
from router.upstream.trust import context_for

_CLOUD = Provider("cloud", Kind.OPENAI, "https://c.example/v1", Locality.REMOTE)


def _settings(folder: Path, **more: Any) -> Settings:
    config = folder / "router.yaml"
    cloud = {"kind": "openai", "base_url": "https://c.example/v1", **more}
    tree = {"providers": {"cloud": cloud}, "capabilities": {}}
    config.write_text(json.dumps(tree), encoding="utf-8")
    return load(config, {}, {"HOME": str(folder)})


def _is_closed(reaches: Reaches) -> bool:
    upstream = reaches.by_name["cloud"].upstream
    assert isinstance(upstream, AiohttpUpstream)
    return upstream.session.closed


async def test_the_end_closes_what_is_still_in_use(tmp_path: Path) -> None:
    """A request that will not let go keeps no connection beyond the router's end."""
    reaches = Reaches()
    reaches.adopt(await reaches.prepare({"cloud": _CLOUD}, _settings(tmp_path)))
    reach = reaches.by_name["cloud"]
    assert not _is_closed(reaches)
    with reach.use:
        await reaches.aclose()
        assert isinstance(reach.upstream, AiohttpUpstream)
        assert reach.upstream.session.closed
    assert (reaches.by_name, reaches.retired) == ({}, 0)


async def test_the_same_settings_keep_the_same_way(tmp_path: Path) -> None:
    """Another reading of the same is no change; an authority that was renewed is one."""
    reaches = Reaches()
    reaches.adopt(await reaches.prepare({"cloud": _CLOUD}, _settings(tmp_path)))
    reach = reaches.by_name["cloud"]
    renewal = await reaches.prepare({"cloud": _CLOUD}, _settings(tmp_path))
    assert renewal.made == ()
    reaches.adopt(renewal)
    assert reaches.by_name["cloud"] is reach
    renewal = await reaches.prepare({"cloud": _CLOUD}, _settings(tmp_path, timeouts={"idle_s": 3}))
    assert len(renewal.made) == 1
    reaches.discard(renewal)
    await reaches.aclose()


async def test_authorities_are_read_beside_the_loop_and_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tens of milliseconds for each provider would be felt by the requests beside a change."""
    threads: list[threading.Thread] = []

    def watched(file: Path | None) -> ssl.SSLContext:
        threads.append(threading.current_thread())
        return context_for(file)

    monkeypatch.setattr("router.reaches.context_for", watched)
    reaches = Reaches()
    settings = _settings(tmp_path)
    other = replace(_CLOUD, name="other")
    told = {"cloud": settings.providers["cloud"], "other": settings.providers["cloud"]}
    settings = settings.model_copy(update={"providers": told})
    reaches.adopt(await reaches.prepare({"cloud": _CLOUD, "other": other}, settings))
    assert set(reaches.by_name) == {"cloud", "other"}
    await reaches.aclose()
    assert len(threads) == 1
    assert threading.main_thread() not in threads


async def test_an_authority_that_cannot_be_read_is_told_and_harms_nobody_else(
    tmp_path: Path,
) -> None:
    """The others are prepared all the same."""
    reaches = Reaches()
    renewal = await reaches.prepare({"cloud": _CLOUD}, _settings(tmp_path, ca_file="/none.pem"))
    assert "cannot be read" in renewal.faults["cloud"]
    assert dict(renewal.reaches) == {}
    await reaches.aclose()
