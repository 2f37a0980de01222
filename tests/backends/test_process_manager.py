import asyncio
import dataclasses
import json
import os
import signal
import socket
import stat
import threading
from pathlib import Path

import psutil
import pytest

from backends.process_manager import BackendUnavailable, ProcessManager, RestartPolicy, Want
from backends.wire import CODES, BackendEvent
from backends.wire import ProcessState as S
from tests.harness.children import QUICK, Yard, ask, is_gone, until
from tests.harness.clock import FakeClock


def read(path: str) -> bytes:
    """Read a file of the system."""
    return Path(path).read_bytes()


async def test_eager_lives_exactly_while_it_is_wanted(yard: Yard) -> None:
    """An eager process starts when it is wanted and is gone, reaped, once it is not."""
    async with yard.manager(yard.spec()) as manager:
        manager.set_desired({"fake": Want.EAGER})
        await manager.wait_for("fake", "ready")
        status = manager.status("fake")
        assert status.state is S.READY
        assert status.pid is not None
        assert (await ask(status.port)) == str(status.pid).encode()
        manager.set_desired({})
        await manager.wait_for("fake", "gone")
        assert not psutil.pid_exists(status.pid)
        assert manager.status("fake").state is S.STOPPED
    assert yard.states() == [S.STARTING, S.READY, S.STOPPING, S.STOPPED]


async def test_leaving_the_manager_stops_every_child(yard: Yard) -> None:
    """When the manager is left, all its children and their guardians are gone."""
    async with yard.manager(yard.spec(), yard.spec(name="other")) as manager:
        manager.set_desired({"fake": Want.EAGER, "other": Want.EAGER})
        await manager.wait_for("fake", "ready")
        await manager.wait_for("other", "ready")
        pids = [status.pid for status in manager.statuses()]
    assert all(pid and not psutil.pid_exists(pid) for pid in pids)
    assert not list(yard.run_dir.glob("*.json"))


async def test_a_manager_that_is_left_refuses(yard: Yard) -> None:
    """A lease asked for after the end is refused at once, not waited for."""
    async with yard.manager(yard.spec()) as manager:
        manager.set_desired({"fake": Want.ON_DEMAND})
    with pytest.raises(BackendUnavailable) as refused:
        async with manager.lease("fake"):
            pass
    assert refused.value.code == "shutting_down"


async def test_a_hundred_callers_one_spawn(yard: Yard) -> None:
    """A hundred leases on a stopped process start it once and all get the same run."""
    gate = yard.gate("ready")
    async with yard.manager(yard.spec("--ready-gate", str(gate.path))) as manager:
        manager.set_desired({"fake": Want.ON_DEMAND})

        async def call() -> int:
            async with manager.lease("fake") as lease:
                await asyncio.sleep(0)
                return lease.generation

        async with asyncio.TaskGroup() as group:
            calls = [group.create_task(call()) for _ in range(100)]
            await until(lambda: len(yard.journal("start")) == 1)
            gate.open()
        assert {task.result() for task in calls} == {1}
        assert manager.status("fake").leases == 0
    assert len(yard.journal("start")) == 1


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


async def test_unknown_names_are_programming_errors(yard: Yard) -> None:
    """A name that no spec has is a KeyError, not a wait."""
    async with yard.manager(yard.spec()) as manager:
        with pytest.raises(KeyError):
            manager.lease("nobody")
        with pytest.raises(KeyError):
            manager.set_desired({"nobody": Want.EAGER})


async def test_the_only_caller_leaves_and_the_start_is_given_up(yard: Yard) -> None:
    """A start that nobody waits for any more is stopped, and its child is gone."""
    gate = yard.gate("ready")
    async with yard.manager(yard.spec("--ready-gate", str(gate.path))) as manager:
        manager.set_desired({"fake": Want.ON_DEMAND})
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.15), manager.lease("fake"):
                pass
        await manager.wait_for("fake", "gone")
        assert S.READY not in yard.states()
        assert manager.status("fake").leases == 0


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


async def test_a_lease_that_is_granted_and_cancelled_at_once_is_given_back(yard: Yard) -> None:
    """A caller cancelled in the turn of its grant leaves no lease behind."""
    gate = yard.gate("ready")
    async with yard.manager(yard.spec("--ready-gate", str(gate.path))) as manager:
        manager.set_desired({"fake": Want.EAGER})
        call = asyncio.create_task(manager.lease("fake").__aenter__())
        await until(lambda: len(yard.journal("start")) == 1)
        gate.open()
        while manager.status("fake").leases == 0:  # noqa: ASYNC110 the very turn is what matters
            await asyncio.sleep(0)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        if call.cancelled():
            assert manager.status("fake").leases == 0
        else:
            await call.result().__aexit__(None, None, None)


async def test_a_request_during_the_stop_is_served_by_the_next_run(yard: Yard) -> None:
    """A lease asked for while the child ends waits and gets a new generation."""
    gate = yard.gate("term")
    async with yard.manager(yard.spec("--term-gate", str(gate.path))) as manager:
        manager.set_desired({"fake": Want.ON_DEMAND})
        async with manager.lease("fake"):
            pass
        manager.set_desired({})
        await until(lambda: len(yard.journal("term")) == 1)
        manager.set_desired({"fake": Want.ON_DEMAND})
        call = asyncio.create_task(manager.lease("fake").__aenter__())
        await asyncio.sleep(0.02)
        assert manager.status("fake").state is S.STOPPING
        gate.open()
        lease = await call
        assert lease.generation == 2
        await lease.__aexit__(None, None, None)
        gate.open()
    assert not yard.journal("overlap")


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


async def test_sigterm_ignored(yard: Yard) -> None:
    """A child that ignores SIGTERM is killed after stop_s and reaped."""
    timeouts = dataclasses.replace(QUICK, stop_s=0.1)
    async with yard.manager(yard.spec("--ignore-term", timeouts=timeouts)) as manager:
        manager.set_desired({"fake": Want.EAGER})
        await manager.wait_for("fake", "ready")
        pid = manager.status("fake").pid
        assert pid is not None
        manager.set_desired({})
        async with asyncio.timeout(2):
            await manager.wait_for("fake", "gone")
        assert not psutil.pid_exists(pid)
        assert "killed" in manager.status("fake").history[-1].reason


@pytest.mark.parametrize("kind", ["plain", "setsid", "daemon"])
async def test_grandchildren_end_with_the_child(yard: Yard, kind: str) -> None:
    """A grandchild that holds stdout delays no stop and is gone after it, whatever its session."""
    spec = yard.spec("--fork-grandchild", kind, "--pids", str(yard.folder / "pids"))
    async with yard.manager(spec) as manager:
        manager.set_desired({"fake": Want.EAGER})
        await manager.wait_for("fake", "ready")
        family = yard.pids()
        manager.set_desired({})
        async with asyncio.timeout(2):
            await manager.wait_for("fake", "gone")
        assert all(is_gone(pid) for pid in family)


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


async def test_a_child_in_a_session_of_its_own_is_ended(yard: Yard) -> None:
    """A grandchild's worth of care for a child that itself forks away: it has no way out."""
    spec = yard.spec("--fork-grandchild", "daemon", "--pids", str(yard.folder / "pids"))
    async with yard.manager(spec) as manager:
        manager.set_desired({"fake": Want.EAGER})
        await manager.wait_for("fake", "ready")
        family = yard.pids()
        await ask(manager.status("fake").port, "/die")
        await until(lambda: manager.status("fake").generation == 2)
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
            with pytest.raises(BackendUnavailable):
                async with manager.lease("fake"):
                    pass
        await until(lambda: manager.status("fake").generation > 3)


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
    """A start without a sign of life ends after stall_s with a code of its own."""
    timeouts = dataclasses.replace(QUICK, stall_s=0.2)
    spec = yard.spec("--progress", "loading 3 of 7", "--never-ready", timeouts=timeouts)
    async with yard.manager(spec) as manager:
        manager.set_desired({"fake": Want.ON_DEMAND})
        with pytest.raises(BackendUnavailable) as late:
            async with manager.lease("fake"):
                pass
        assert late.value.code == "backend_start_timeout"
        assert "loading 3 of 7" in late.value.message
        await manager.wait_for("fake", "gone")
        await until(lambda: is_gone(yard.journal("start")[0]))


async def test_progress_defers_the_stall_but_not_the_end(yard: Yard) -> None:
    """Progress keeps a start alive beyond stall_s, and start_s ends it all the same."""
    timeouts = dataclasses.replace(QUICK, stall_s=0.3, start_s=0.8)
    async with yard.manager(yard.spec("--progress-every", "0.02", timeouts=timeouts)) as manager:
        manager.set_desired({"fake": Want.ON_DEMAND})
        began = asyncio.get_running_loop().time()
        with pytest.raises(BackendUnavailable) as late:
            async with manager.lease("fake"):
                pass
        assert late.value.code == "backend_start_timeout"
        assert asyncio.get_running_loop().time() - began >= 0.75


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


@pytest.mark.parametrize("missing", ["program", "folder"])
async def test_what_cannot_be_run_is_named(yard: Yard, missing: str) -> None:
    """A program or folder that is not there is an error that names it, without its path."""
    nowhere = yard.folder / "nowhere"
    change = {"argv": (str(nowhere),)} if missing == "program" else {"cwd": nowhere}
    async with yard.manager(yard.spec(**change)) as manager:
        manager.set_desired({"fake": Want.ON_DEMAND})
        with pytest.raises(BackendUnavailable) as failed:
            async with manager.lease("fake"):
                pass
    word = "nowhere" if missing == "program" else "folder"
    assert f"{word}: No such file or directory" in failed.value.message
    assert str(yard.folder) not in failed.value.message


async def test_a_stranger_on_the_port(yard: Yard) -> None:
    """A port that somebody listens on blocks the start, is left alone, and is had once free."""
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        port = stranger.getsockname()[1]
        async with yard.manager(yard.spec(port=port)) as manager:
            manager.set_desired({"fake": Want.EAGER})
            with pytest.raises(BackendUnavailable) as blocked:
                async with manager.lease("fake"):
                    pass
            assert blocked.value.code == "backend_port_in_use"
            assert f"(pid {os.getpid()}), which listens on it" in blocked.value.message
            assert blocked.value.retry_after_s is not None
            assert manager.status("fake").state is S.BLOCKED
            with socket.create_connection(("127.0.0.1", port)):
                pass
            stranger.close()
            await until(lambda: manager.status("fake").state is S.READY)
            assert manager.status("fake").port == port


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


async def test_the_environment_is_exactly_what_was_given(yard: Yard) -> None:
    """The child has the given variables and folder, no other, and no secret in its arguments."""
    dump = yard.folder / "dump"
    env = {"TOKEN": "s3cret", "ODD": "\udcff\u00fc=\n"}
    async with yard.manager(yard.spec("--dump-env", str(dump), env=env)) as manager:
        manager.set_desired({"fake": Want.EAGER})
        await manager.wait_for("fake", "ready")
        pid = manager.status("fake").pid
        guardian = psutil.Process(pid).parent()
        assert guardian is not None
        raw = read(f"/proc/{pid}/environ")
        assert raw == b"TOKEN=s3cret\0ODD=" + os.fsencode(env["ODD"]) + b"\0"
        assert guardian.environ() == {}
        assert "s3cret" not in " ".join(psutil.Process(pid).cmdline() + guardian.cmdline())
    told = json.loads(dump.read_text(encoding="utf-8"))
    assert told["cwd"] == str(yard.folder)


async def test_the_child_inherits_what_it_needs_and_no_more(yard: Yard) -> None:
    """The child holds the socket and the ready pipe; the router keeps no copy of the socket."""
    async with yard.manager(yard.spec()) as manager:
        manager.set_desired({"fake": Want.EAGER})
        await manager.wait_for("fake", "ready")
        status = manager.status("fake")
        # stdin, stdout, stderr, socket, ready pipe, and its own journal and lock
        assert psutil.Process(status.pid).num_fds() == 7
        listening = [
            found.pid
            for found in psutil.net_connections("tcp4")
            if found.laddr
            and found.laddr.port == status.port
            and found.status == psutil.CONN_LISTEN
        ]
        assert listening == [status.pid]


async def test_the_child_has_every_signal_as_the_system_made_it(yard: Yard) -> None:
    """No ignored or blocked signal is inherited, and the program is found by the child's PATH."""
    spec = yard.spec(argv=("cat", "/proc/self/status"), env={"PATH": "/bin:/usr/bin"})
    async with yard.manager(spec) as manager:
        manager.set_desired({"fake": Want.EAGER})
        await until(lambda: manager.status("fake").state is S.FATAL)
        for name in ("SigBlk", "SigIgn"):
            assert f"{name}:\t{0:016}" in manager.logs("fake")


async def test_a_guardian_that_is_killed(yard: Yard) -> None:
    """When the guardian is SIGKILLed the tree goes too, and it counts as a crash."""
    spec = yard.spec("--fork-grandchild", "plain", "--pids", str(yard.folder / "pids"))
    async with yard.manager(spec) as manager:
        manager.set_desired({"fake": Want.EAGER})
        await manager.wait_for("fake", "ready")
        family = yard.pids()
        os.kill(psutil.Process(family[0]).ppid(), signal.SIGKILL)
        await until(lambda: manager.status("fake").generation == 2)
        assert all(is_gone(pid) for pid in family)
        await manager.wait_for("fake", "ready")
        assert manager.status("fake").restarts == 1


async def test_a_guardian_that_is_told_to_end(yard: Yard) -> None:
    """SIGTERM to the guardian ends its child in order, and it counts as a crash."""
    async with yard.manager(yard.spec()) as manager:
        manager.set_desired({"fake": Want.EAGER})
        await manager.wait_for("fake", "ready")
        os.kill(psutil.Process(manager.status("fake").pid).ppid(), signal.SIGTERM)
        await until(lambda: manager.status("fake").generation == 2)
        assert len(yard.journal("term")) == 1


async def test_spam_never_blocks_the_child(yard: Yard) -> None:
    """Ten MiB of binary and one endless line pass; the log keeps its end and its bounds."""
    async with yard.manager(yard.spec("--spam-stdout", str(10 << 20))) as manager:
        manager.set_desired({"fake": Want.EAGER})
        await manager.wait_for("fake", "ready")
        await until(lambda: "the end of the spam" in manager.logs("fake"))
        assert max(len(line) for line in manager.logs("fake")) <= 2000
    log = yard.folder / "fake.log"
    assert log.stat().st_size > 10 << 20
    assert stat.S_IMODE(log.stat().st_mode) == 0o600


async def test_wanted_from_a_thread(yard: Yard) -> None:
    """A wish from a worker thread that ends at once starts a child that stays."""
    async with yard.manager(yard.spec()) as manager:
        thread = threading.Thread(target=manager.set_desired, args=({"fake": Want.EAGER},))
        thread.start()
        await until(lambda: manager.status("fake").generation == 1 and not thread.is_alive())
        await manager.wait_for("fake", "ready")
        await asyncio.sleep(0.05)
        status = manager.status("fake")
        assert await ask(status.port) == str(status.pid).encode()
    assert len(yard.journal("start")) == 1


async def test_status_tells_all(yard: Yard) -> None:
    """The status names state, pid, port, memory, leases, generation and the way there."""
    async with yard.manager(yard.spec()) as manager:
        manager.set_desired({"fake": Want.EAGER})
        async with manager.lease("fake"):
            status = manager.status("fake")
            assert (status.name, status.state, status.leases) == ("fake", S.READY, 1)
            assert status.memory_mb is not None
            assert status.memory_mb > 1
            assert [move.state for move in status.history] == [S.STARTING, S.READY]
            assert "generation=1" in repr(manager)
            assert yard.events[-1].pid == status.pid


async def test_the_record_is_private_and_names_both(yard: Yard) -> None:
    """While a child lives, a record that only we can read names guardian and child."""
    async with yard.manager(yard.spec()) as manager:
        manager.set_desired({"fake": Want.EAGER})
        await manager.wait_for("fake", "ready")
        record = yard.run_dir / "fake.json"
        assert stat.S_IMODE(record.stat().st_mode) == 0o600
        assert stat.S_IMODE(yard.run_dir.stat().st_mode) == 0o700
        pid = manager.status("fake").pid
        rows = [row["pid"] for row in json.loads(record.read_bytes())]
        assert rows == [psutil.Process(pid).ppid(), pid]


async def test_a_defect_of_the_owner_leaves_no_child(
    yard: Yard, caplog: pytest.LogCaptureFixture
) -> None:
    """An error inside the owner ends the child and is told to callers; a restart repairs it."""
    defects = [RuntimeError("the bus is gone")]

    def emit(event: BackendEvent) -> None:
        if event.state is S.READY and defects:
            raise defects.pop()
        yard.events.append(event)

    async with ProcessManager([yard.spec()], run_dir=yard.run_dir, emit=emit) as manager:
        manager.set_desired({"fake": Want.EAGER})
        with pytest.raises(BackendUnavailable) as failed:
            async with manager.lease("fake"):
                pass
        assert "the bus is gone" in failed.value.message
        assert is_gone(yard.journal("start")[0])
        assert yard.states()[-1] is S.FATAL
        assert "the owner of fake failed" in caplog.text
        manager.restart("fake")
        async with manager.lease("fake") as lease:
            assert lease.generation == 2


async def test_leaving_is_cancelled_and_the_guardian_finishes(yard: Yard) -> None:
    """When even the shutdown is cut short, the child is ended without the router."""
    manager = yard.manager(yard.spec("--ignore-term"))
    await manager.__aenter__()
    manager.set_desired({"fake": Want.EAGER})
    await manager.wait_for("fake", "ready")
    pid = manager.status("fake").pid
    assert pid is not None
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await manager.__aexit__(None, None, None)
    await until(lambda: is_gone(pid), within_s=3)
    child = manager._processes["fake"]._child
    assert child is not None
    child._guardian.wait()
