import asyncio
import dataclasses
import json
import os
import signal
import socket
import stat
import sys
import threading
from pathlib import Path

import psutil
import pytest

from backends.process_manager import BackendUnavailable, ProcessManager, Want
from backends.wire import BackendEvent, ProcessEvent
from backends.wire import ProcessState as S
from tests.harness.children import QUICK, Yard, ask, is_gone, until


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
        async with asyncio.timeout(5):
            await manager.wait_for("fake", "gone")
        assert S.READY not in yard.states()
        assert manager.status("fake").leases == 0


async def test_a_lease_that_is_granted_and_cancelled_at_once_is_given_back(yard: Yard) -> None:
    """A caller cancelled in the turn of its grant leaves no lease behind."""
    gate = yard.gate("ready")
    async with yard.manager(yard.spec("--ready-gate", str(gate.path))) as manager:
        manager.set_desired({"fake": Want.EAGER})
        call = asyncio.create_task(manager.lease("fake").__aenter__())
        await until(lambda: len(yard.journal("start")) == 1)
        gate.open()
        while manager.status("fake").leases == 0:
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


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
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


@pytest.mark.skipif(sys.platform != "linux", reason="counts descriptors in /proc")
async def test_the_child_inherits_what_it_needs_and_no_more(yard: Yard) -> None:
    """The child holds the socket and the ready pipe; router and guardian keep no copy."""
    async with yard.manager(yard.spec()) as manager:
        manager.set_desired({"fake": Want.EAGER})
        await manager.wait_for("fake", "ready")
        status = manager.status("fake")
        # stdin, stdout, stderr, socket, ready pipe, and its own journal and lock
        assert psutil.Process(status.pid).num_fds() == 7
        # stdin, stdout, stderr, command, report, both ends of its wake-up pipe
        guardian = psutil.Process(status.pid).parent()
        assert guardian is not None
        assert guardian.num_fds() == 7
        ours = [found.laddr for found in psutil.Process().net_connections("tcp4")]
        assert ("127.0.0.1", status.port) not in ours


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_the_child_has_every_signal_as_the_system_made_it(yard: Yard) -> None:
    """No ignored or blocked signal is inherited, and the program is found by the child's PATH."""
    spec = yard.spec(argv=("cat", "/proc/self/status"), env={"PATH": "/bin:/usr/bin"})
    # As a shell does for what it starts with `&`.
    before = signal.signal(signal.SIGQUIT, signal.SIG_IGN)
    try:
        async with yard.manager(spec) as manager:
            manager.set_desired({"fake": Want.EAGER})
            await until(lambda: manager.status("fake").state is S.FATAL)
            logs = manager.logs("fake")
    finally:
        signal.signal(signal.SIGQUIT, before)
    masks = dict(line.split(":\t") for line in logs if line.startswith(("SigBlk", "SigIgn")))
    for name in ("SigBlk", "SigIgn"):
        # glibc keeps 32 and 33 for itself, and what `make` starts has them ignored for ever.
        held = {number for number in range(1, 65) if int(masks[name], 16) >> (number - 1) & 1}
        assert held <= {32, 33}


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
        # In debug mode the loop refuses to be woken from a thread by anything but the safe call.
        asyncio.get_running_loop().set_debug(True)
        await manager.wait_for("fake", "gone")  # the owner rests, and has to be woken
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

    def emit(event: ProcessEvent) -> None:
        if isinstance(event, BackendEvent) and event.state is S.READY and defects:
            raise defects.pop()
        yard.emit(event)

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


async def test_a_failure_that_was_not_told_is_forgotten_with_its_run(yard: Yard) -> None:
    """A defect while a run that failed is stopped says nothing of the next run."""
    defects = [RuntimeError("the bus is gone")]

    def emit(event: ProcessEvent) -> None:
        if isinstance(event, BackendEvent) and event.state is S.STOPPING and defects:
            raise defects.pop()
        yard.emit(event)

    late = yard.spec("--never-ready", timeouts=dataclasses.replace(QUICK, start_s=0.2))
    async with ProcessManager([late], run_dir=yard.run_dir, emit=emit) as manager:
        manager.set_desired({"fake": Want.EAGER})
        await until(lambda: manager.status("fake").state is S.FATAL)
        manager.renew([yard.spec()])
        async with asyncio.timeout(10), manager.lease("fake"):
            pass
        manager.set_desired({})
        await manager.wait_for("fake", "gone")
        assert S.BACKOFF not in yard.states()


async def test_a_name_that_nobody_has_cannot_be_woken(yard: Yard) -> None:
    """Whoever asks hears of it, and leaving the manager does not."""
    async with yard.manager(yard.spec()) as manager:
        with pytest.raises(KeyError):
            manager.wake("other")


async def test_a_bus_that_is_gone_for_good_delays_no_shutdown(yard: Yard) -> None:
    """Even when every event fails to be told, the manager can be left and no child stays."""

    def emit(event: ProcessEvent) -> None:
        raise RuntimeError(event.name)

    loop = asyncio.get_running_loop()
    told: list[object] = []
    loop.set_exception_handler(lambda _, problem: told.append(problem["exception"]))
    async with asyncio.timeout(5):
        async with ProcessManager([yard.spec()], run_dir=yard.run_dir, emit=emit) as manager:
            manager.set_desired({"fake": Want.EAGER})
            with pytest.raises(BackendUnavailable):
                await manager.wait_for("fake", "ready")
    assert told


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
