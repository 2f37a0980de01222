import asyncio
import dataclasses
import os
import signal
import socket

import psutil
import pytest

from backends.process_manager import BackendUnavailable, RestartPolicy, Want
from backends.wire import CODES
from backends.wire import ProcessState as S
from tests.harness.children import QUICK, Yard, ask, is_gone, until
from tests.harness.clock import FakeClock
from tests.harness.served import free_port


async def test_on_demand_waits_for_the_first_lease(yard: Yard) -> None:
    """An on-demand process does not start by itself."""
    async with yard.manager(yard.spec()) as manager:
        manager.set_desired({"fake": Want.ON_DEMAND})
        await manager.wait_for("fake", "gone")
        assert manager.status("fake").generation == 0
        async with manager.lease("fake"):
            assert manager.status("fake").state is S.READY


async def test_on_demand_stops_when_idle(yard: Yard) -> None:
    """An on-demand process ends idle_stop_s after its last lease, not while one is held."""
    timeouts = dataclasses.replace(QUICK, idle_stop_s=0.05)
    async with yard.manager(yard.spec(timeouts=timeouts)) as manager:
        manager.set_desired({"fake": Want.ON_DEMAND})
        async with manager.lease("fake"):
            for _ in range(6):
                await asyncio.sleep(0.02)
            assert manager.status("fake").state is S.READY
        await manager.wait_for("fake", "gone")
        async with manager.lease("fake") as lease:
            assert lease.generation == 2
        assert manager.status("fake").restarts == 0


async def test_no_idle_time_at_all_still_serves(yard: Yard) -> None:
    """Even with no idle time granted, whoever waits for the start is served before the end."""
    timeouts = dataclasses.replace(QUICK, idle_stop_s=0)
    async with yard.manager(yard.spec(timeouts=timeouts)) as manager:
        manager.set_desired({"fake": Want.ON_DEMAND})
        async with asyncio.timeout(5), manager.lease("fake") as lease:
            assert lease.generation == 1
        await manager.wait_for("fake", "gone")


async def test_an_eager_process_is_never_idle(yard: Yard) -> None:
    """Idle time does not end an eager process."""
    timeouts = dataclasses.replace(QUICK, idle_stop_s=0.01)
    async with yard.manager(yard.spec(timeouts=timeouts)) as manager:
        manager.set_desired({"fake": Want.EAGER})
        await manager.wait_for("fake", "ready")
        await asyncio.sleep(0.05)
        assert manager.status("fake").state is S.READY


async def test_a_name_that_is_not_wanted_is_refused(yard: Yard) -> None:
    """A lease on a process that nothing points at is refused with what to do."""
    async with yard.manager(yard.spec()) as manager:
        with pytest.raises(BackendUnavailable) as refused:
            async with manager.lease("fake"):
                pass
    assert refused.value.code == "backend_not_assigned"
    assert "assign" in refused.value.message


async def test_a_run_with_old_settings_is_replaced_once_nobody_uses_it(yard: Yard) -> None:
    """Who holds a lease keeps the run; then comes the next one, with what is due now."""
    async with yard.manager(yard.spec()) as manager:
        manager.set_desired({"fake": Want.EAGER})
        async with manager.lease("fake") as lease:
            manager.renew([yard.spec("--stderr", "renewed")])
            async with manager.lease("fake") as other:
                assert other.generation == lease.generation == 1
            assert manager.status("fake").state is S.READY
        async with asyncio.timeout(5), manager.lease("fake") as lease:
            assert lease.generation == 2
        manager.renew([yard.spec("--stderr", "renewed")])
        async with manager.lease("fake") as lease:
            assert lease.generation == 2
        assert manager.status("fake").restarts == 0


async def test_another_port_is_taken_at_once(yard: Yard) -> None:
    """Whoever comes is not sent to where nobody listens any more."""
    async with yard.manager(yard.spec(port=0)) as manager:
        manager.set_desired({"fake": Want.EAGER})
        async with asyncio.timeout(5):
            async with manager.lease("fake"):
                manager.renew([yard.spec(port=free_port())])
                await until(lambda: manager.status("fake").state is S.DRAINING)
            async with manager.lease("fake") as lease:
                assert lease.generation == 2


async def test_what_could_not_run_gets_another_chance_with_other_settings(yard: Yard) -> None:
    """A person who mends the configuration need not restart the router."""
    policy = RestartPolicy(starts_per_window=1)
    async with yard.manager(yard.spec("--exit-after", "0", restart=policy)) as manager:
        manager.set_desired({"fake": Want.EAGER})
        await until(lambda: manager.status("fake").state is S.FATAL)
        manager.renew([yard.spec(restart=policy)])
        async with asyncio.timeout(5):
            while manager.status("fake").state is not S.READY:
                await asyncio.sleep(0.005)


async def test_a_process_may_come_while_others_run(yard: Yard) -> None:
    """A new name gets an owner; one that is not named any more is known, and not wanted."""
    async with yard.manager(yard.spec()) as manager:
        manager.set_desired({"fake": Want.EAGER})
        manager.renew([yard.spec(name="other")])
        manager.set_desired({"other": Want.EAGER})
        await manager.wait_for("other", "ready")
        await manager.wait_for("fake", "gone")
        with pytest.raises(BackendUnavailable):
            async with manager.lease("fake"):
                pass


async def test_a_start_goes_on_while_another_waits(yard: Yard) -> None:
    """One of two callers leaves; the other still gets the one run."""
    gate = yard.gate("ready")
    async with yard.manager(yard.spec("--ready-gate", str(gate.path))) as manager:
        manager.set_desired({"fake": Want.ON_DEMAND})
        leaving = asyncio.create_task(manager.lease("fake").__aenter__())
        staying = asyncio.create_task(manager.lease("fake").__aenter__())
        await until(lambda: len(yard.journal("start")) == 1)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        gate.open()
        lease = await staying
        assert manager.status("fake").leases == 1
        await lease.__aexit__(None, None, None)
    assert len(yard.journal("start")) == 1


async def test_unassigning_drains_first(yard: Yard) -> None:
    """A lease in flight keeps the child alive after the last capability left; new ones get 409."""
    async with yard.manager(yard.spec()) as manager:
        manager.set_desired({"fake": Want.EAGER})
        async with manager.lease("fake"):
            manager.set_desired({})
            with pytest.raises(BackendUnavailable) as refused:
                async with manager.lease("fake"):
                    pass
            status = manager.status("fake")
            assert status.state is S.DRAINING
            assert await ask(status.port) == str(status.pid).encode()
        await manager.wait_for("fake", "gone")
    assert CODES[refused.value.code].status == 409
    assert yard.states()[-3:] == [S.DRAINING, S.STOPPING, S.STOPPED]


async def test_assigned_again_while_draining_keeps_the_run(yard: Yard) -> None:
    """A process that is wanted again before it has drained goes on as it was."""
    async with yard.manager(yard.spec()) as manager:
        manager.set_desired({"fake": Want.EAGER})
        async with manager.lease("fake"):
            manager.set_desired({})
            await until(lambda: manager.status("fake").state is S.DRAINING)
            manager.set_desired({"fake": Want.EAGER})
            async with manager.lease("fake") as lease:
                assert lease.generation == 1
        assert manager.status("fake").state is S.READY
    assert len(yard.journal("start")) == 1


async def test_draining_has_an_end(yard: Yard) -> None:
    """After drain_s the child is stopped although a lease is still held."""
    timeouts = dataclasses.replace(QUICK, drain_s=0.05)
    async with yard.manager(yard.spec(timeouts=timeouts)) as manager:
        manager.set_desired({"fake": Want.EAGER})
        async with manager.lease("fake"):
            manager.set_desired({})
            await manager.wait_for("fake", "gone")
        assert manager.status("fake").leases <= 1


async def test_a_lease_of_an_earlier_run_counts_for_nothing(yard: Yard) -> None:
    """Giving back a lease of a run that crashed does not touch the next run's count."""
    async with yard.manager(yard.spec()) as manager:
        manager.set_desired({"fake": Want.EAGER})
        async with manager.lease("fake"):
            await ask(manager.status("fake").port, "/die")
            await until(lambda: manager.status("fake").generation == 2)
            await manager.wait_for("fake", "ready")
            async with manager.lease("fake") as lease:
                assert lease.generation == 2
                assert manager.status("fake").leases == 1
        assert manager.status("fake").leases == 0


async def test_restart_makes_a_fresh_run(yard: Yard) -> None:
    """A restart drains, stops and starts an eager process."""
    async with yard.manager(yard.spec()) as manager:
        manager.set_desired({"fake": Want.EAGER})
        await manager.wait_for("fake", "ready")
        manager.restart("fake")
        await until(lambda: manager.status("fake").generation == 2)
        await manager.wait_for("fake", "ready")
    assert len(yard.journal("start")) == 2
    assert not yard.journal("overlap")


async def test_a_deaf_grandchild_gets_a_second(yard: Yard) -> None:
    """A grandchild that ignores SIGTERM is killed a second after the child has ended."""
    spec = yard.spec("--fork-grandchild", "deaf", "--pids", str(yard.folder / "pids"))
    async with yard.manager(spec) as manager:
        manager.set_desired({"fake": Want.EAGER})
        await manager.wait_for("fake", "ready")
        family = yard.pids()
        manager.set_desired({})
        async with asyncio.timeout(3):
            await manager.wait_for("fake", "gone")
        assert all(is_gone(pid) for pid in family)


async def test_a_crash_takes_the_tree_along(yard: Yard) -> None:
    """What a crashed child leaves behind, even a daemon, is gone before the next run."""
    spec = yard.spec("--fork-grandchild", "daemon", "--pids", str(yard.folder / "pids"))
    async with yard.manager(spec) as manager:
        manager.set_desired({"fake": Want.EAGER})
        await manager.wait_for("fake", "ready")
        family = yard.pids()
        await ask(manager.status("fake").port, "/die")
        await yard.until_generation(manager, 2)
        assert all(is_gone(pid) for pid in family)


async def test_a_crash_is_told_at_once_and_repaired(yard: Yard) -> None:
    """An eager child that dies is started again; its last word on stderr is in the event."""
    async with yard.manager(yard.spec()) as manager:
        manager.set_desired({"fake": Want.EAGER})
        await manager.wait_for("fake", "ready")
        await ask(manager.status("fake").port, "/die")
        await until(lambda: manager.status("fake").generation == 2)
        await manager.wait_for("fake", "ready")
        assert manager.status("fake").restarts == 1
        assert manager.status("fake").code is None
    told = [event.message for event in yard.events if event.state is S.BACKOFF]
    assert len(told) == 1
    assert "status 3: it was told to die" in told[0]


async def test_an_on_demand_crash_waits_for_the_next_lease(yard: Yard) -> None:
    """An on-demand child that dies is not started again until somebody asks."""
    async with yard.manager(yard.spec()) as manager:
        manager.set_desired({"fake": Want.ON_DEMAND})
        async with manager.lease("fake"):
            await ask(manager.status("fake").port, "/die")
            await until(lambda: manager.status("fake").state is S.STOPPED)
        assert len(yard.journal("start")) == 1
        async with manager.lease("fake") as lease:
            assert lease.generation == 2


async def test_exits_at_once(yard: Yard) -> None:
    """A child that exits at once is tried as often as the policy says, then callers hear why."""
    spec = yard.spec("--stderr", "first\nno such model", "--exit-after", "0")
    async with yard.manager(spec) as manager:
        manager.set_desired({"fake": Want.EAGER})
        with pytest.raises(BackendUnavailable) as failed:
            await manager.wait_for("fake", "ready")
        assert failed.value.code == "backend_failed"
        assert "status 3: no such model" in failed.value.message
        assert manager.status("fake").state is S.FATAL
        with pytest.raises(BackendUnavailable) as refused:
            async with asyncio.timeout(1), manager.lease("fake"):
                pass
        assert CODES[refused.value.code].status == 503
        assert "restart it" in refused.value.message
        assert len(yard.journal("start")) == spec.restart.starts_per_window


async def test_a_lease_in_backoff_fails_at_once(yard: Yard) -> None:
    """While a crashed child pauses, a caller is told when to come back instead of waiting."""
    slow = RestartPolicy(backoff_max_s=60, window_s=300, starts_per_window=3)
    spec = yard.spec("--exit-after", "0", restart=slow)
    async with yard.manager(spec) as manager:
        manager.set_desired({"fake": Want.ON_DEMAND})
        for _ in range(2):
            with pytest.raises(BackendUnavailable) as refused:
                async with asyncio.timeout(5), manager.lease("fake"):
                    pass
            assert manager.status("fake").state is S.BACKOFF
            assert refused.value.retry_after_s is not None
            assert 0 < refused.value.retry_after_s <= 1.2
    assert len(yard.journal("start")) == 1


@pytest.mark.parametrize("release", ["restart", "flip", "change"])
async def test_fatal_is_left_by_a_person_or_the_map(yard: Yard, release: str) -> None:
    """A process that was given up starts again after a restart or a new assignment only."""
    async with yard.manager(yard.spec("--exit-after", "0")) as manager:
        manager.set_desired({"fake": Want.EAGER})
        await until(lambda: manager.status("fake").state is S.FATAL)
        manager.set_desired({"fake": Want.EAGER})
        await asyncio.sleep(0.02)
        assert manager.status("fake").state is S.FATAL
        if release == "restart":
            manager.restart("fake")
        elif release == "flip":
            manager.set_desired({})
            manager.set_desired({"fake": Want.EAGER})
        else:
            manager.set_desired({"fake": Want.ON_DEMAND})
            for _ in range(2):
                with pytest.raises(BackendUnavailable) as failed:
                    async with manager.lease("fake"):
                        pass
                assert "stays down" not in failed.value.message
            return
        await yard.until_generation(manager, 6)
        await until(lambda: manager.status("fake").state is S.FATAL)


async def test_killed_by_the_system(yard: Yard) -> None:
    """A child that is SIGKILLed from outside is reported as such, with the likely cause."""
    slow = RestartPolicy(backoff_max_s=60, window_s=300, starts_per_window=3)
    async with yard.manager(yard.spec("--kill-self", restart=slow)) as manager:
        manager.set_desired({"fake": Want.EAGER})
        await manager.wait_for("fake", "ready")
        await ask(manager.status("fake").port, "/die")
        await until(lambda: manager.status("fake").state is S.BACKOFF)
        assert "Killed, perhaps for want of memory" in manager.status("fake").message


async def test_a_run_longer_than_the_window_forgets_the_crashes(yard: Yard) -> None:
    """After ten good minutes a crash counts as the first, however many came before."""
    clock = FakeClock()
    policy = RestartPolicy(backoff_max_s=0.0, window_s=300, starts_per_window=2)
    async with yard.manager(yard.spec(restart=policy), clock=clock) as manager:
        manager.set_desired({"fake": Want.EAGER})
        for generation in (1, 2, 3):
            await yard.until_generation(manager, generation)
            await manager.wait_for("fake", "ready")
            clock.advance(600)
            await ask(manager.status("fake").port, "/die")
        await until(lambda: manager.status("fake").generation == 4)
        await manager.wait_for("fake", "ready")


async def test_never_ready(yard: Yard) -> None:
    """A start without a sign of life for stall_s ends with a code of its own."""
    clock = FakeClock()
    timeouts = dataclasses.replace(QUICK, stall_s=0.05)
    spec = yard.spec("--progress", "loading 3 of 7", "--never-ready", timeouts=timeouts)
    async with yard.manager(spec, clock=clock) as manager:
        manager.set_desired({"fake": Want.ON_DEMAND})
        call = asyncio.create_task(manager.lease("fake").__aenter__())
        await until(lambda: manager.status("fake").message == "loading 3 of 7")
        clock.advance(0.06)
        with pytest.raises(BackendUnavailable) as late:
            await call
        assert late.value.code == "backend_start_timeout"
        assert "loading 3 of 7" in late.value.message
        await manager.wait_for("fake", "gone")
        assert "loading 3 of 7" in manager.status("fake").message
        await until(lambda: is_gone(yard.journal("start")[0]))


async def test_callers_do_not_wait_for_a_failed_start_to_end(yard: Yard) -> None:
    """A caller hears of the timeout at once, while the child may still ignore SIGTERM."""
    timeouts = dataclasses.replace(QUICK, start_s=0.05, stop_s=1)
    async with yard.manager(
        yard.spec("--never-ready", "--ignore-term", timeouts=timeouts)
    ) as manager:
        manager.set_desired({"fake": Want.EAGER})
        with pytest.raises(BackendUnavailable) as late:
            async with manager.lease("fake"):
                pass
        assert late.value.code == "backend_start_timeout"
        assert manager.status("fake").state is S.STOPPING


async def test_progress_defers_the_stall_but_not_the_end(yard: Yard) -> None:
    """Progress keeps a start alive beyond stall_s, and start_s ends it all the same."""
    clock = FakeClock()
    timeouts = dataclasses.replace(QUICK, stall_s=5, start_s=8)
    spec = yard.spec("--progress-every", "0.02", timeouts=timeouts)
    async with yard.manager(spec, clock=clock) as manager:
        manager.set_desired({"fake": Want.ON_DEMAND})
        call = asyncio.create_task(manager.lease("fake").__aenter__())
        process = manager._processes["fake"]
        for seconds in (0, 4, 3.9):
            clock.advance(seconds)
            await until(lambda: process._child is not None and process._child.heard_at == clock())
            assert not call.done()
        clock.advance(0.2)
        with pytest.raises(BackendUnavailable) as late:
            await call
        assert late.value.code == "backend_start_timeout"


async def test_a_crash_while_draining_is_no_reason_to_wait(yard: Yard) -> None:
    """A child that dies after the last capability left is stopped, not kept in back-off."""
    slow = RestartPolicy(backoff_max_s=60, window_s=300, starts_per_window=3)
    async with yard.manager(yard.spec(restart=slow)) as manager:
        manager.set_desired({"fake": Want.EAGER})
        async with manager.lease("fake"):
            manager.set_desired({})
            await until(lambda: manager.status("fake").state is S.DRAINING)
            await ask(manager.status("fake").port, "/die")
            await until(lambda: manager.status("fake").state is S.STOPPED, within_s=0.6)


async def test_a_child_that_says_why_it_failed(yard: Yard) -> None:
    """What the child says on the ready pipe is the error's text, and it is ended."""
    async with yard.manager(yard.spec("--fail", "the GPU is on fire")) as manager:
        manager.set_desired({"fake": Want.ON_DEMAND})
        with pytest.raises(BackendUnavailable) as failed:
            async with manager.lease("fake"):
                pass
        assert failed.value.code == "backend_failed"
        assert "the GPU is on fire" in failed.value.message
        await manager.wait_for("fake", "gone")


async def test_an_outgoing_connection_on_the_port(yard: Yard) -> None:
    """A port that is the local end of somebody's connection is named as that and left alone."""
    server = socket.create_server(("127.0.0.1", 0))
    with server, socket.create_connection(server.getsockname()) as outgoing:
        port = outgoing.getsockname()[1]
        async with yard.manager(yard.spec(port=port)) as manager:
            manager.set_desired({"fake": Want.EAGER})
            with pytest.raises(BackendUnavailable) as blocked:
                await manager.wait_for("fake", "ready")
            assert "an outgoing connection to 127.0.0.1" in blocked.value.message
            outgoing.sendall(b"unharmed")


async def test_a_guardian_that_is_told_to_end(yard: Yard) -> None:
    """SIGTERM to the guardian ends its child in order, and it counts as a crash."""
    async with yard.manager(yard.spec()) as manager:
        manager.set_desired({"fake": Want.EAGER})
        await manager.wait_for("fake", "ready")
        os.kill(psutil.Process(manager.status("fake").pid).ppid(), signal.SIGTERM)
        await until(lambda: manager.status("fake").generation == 2)
        assert len(yard.journal("term")) == 1
