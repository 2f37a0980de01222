"""What the command line tells of the configuration."""

from tests.router.cli.conftest import FakeRouter, Signalbox


def test_reload_tells_what_changed_and_what_waits(router: FakeRouter, signalbox: Signalbox) -> None:
    """What needs a restart is said where the person looks."""
    told = {
        "source": "r.yaml", "changed": ["local_only"], "needs_restart": ["server.port"],
        "notices": ["a notice"],
    }  # fmt: skip
    router.says("POST /admin/reload", told)
    assert signalbox("reload").out.splitlines() == [
        "r.yaml: changed: local_only", "needs a restart: server.port", "a notice",
    ]  # fmt: skip
    assert signalbox("reload", "--json").json == told
