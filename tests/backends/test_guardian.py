import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from backends import guardian
from backends.guardian import Row, descendants, scan_proc, scan_ps
from backends.leftover import identity
from backends.process_manager import Want
from tests.harness import doomed_router
from tests.harness.children import Yard, is_gone

HABITS = {
    "plain": (),
    "grandchild": ("--fork-grandchild", "plain"),
    "own session": ("--fork-grandchild", "setsid"),
    "daemon": ("--fork-grandchild", "daemon"),
    "deaf": ("--ignore-term", "--fork-grandchild", "deaf"),
    "not ready yet": ("--never-ready", "--fork-grandchild", "plain"),
}
ROOT = Path(doomed_router.__file__).parents[2]


def wait_until(condition: Callable[[], bool], within_s: float = 15.0) -> float:
    """Wait; return how many seconds that took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < within_s
        time.sleep(0.002)
    return time.monotonic() - began


@contextlib.contextmanager
def doomed(yard: Yard, *switches: str) -> Iterator[tuple[subprocess.Popen[bytes], list[int]]]:
    """Run a router to be killed; yield it and the pids of guardian, child and grandchildren."""
    pids = yard.folder / "pids"
    argv = [sys.executable, "-m", doomed_router.__name__, str(yard.folder), "--pids", str(pids)]
    with subprocess.Popen([*argv, *switches], cwd=ROOT) as router:
        try:
            wait_until(pids.exists)
            family = [int(line) for line in pids.read_text(encoding="ascii").split()]
            yield router, [psutil.Process(family[0]).ppid(), *family]
        finally:
            router.kill()


@pytest.mark.parametrize("habit", sorted(HABITS))
def test_nothing_outlives_a_killed_router(tmp_path: Path, habit: str) -> None:
    """After SIGKILL of the router its guardian, child and grandchildren are gone in 1.5 s."""
    with contextlib.ExitStack() as stack:
        family: list[int] = []
        routers = []
        for number in range(4):
            yard = Yard(tmp_path / str(number))
            yard.folder.mkdir()
            router, pids = stack.enter_context(doomed(yard, *HABITS[habit]))
            routers.append(router)
            family += pids
        assert not any(is_gone(pid) for pid in family)
        for router in routers:
            router.kill()
        assert wait_until(lambda: all(is_gone(pid) for pid in family)) < 1.5


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_the_child_does_not_outlive_its_guardian(yard: Yard) -> None:
    """A child whose guardian is SIGKILLed while the router hangs is gone by itself."""
    with doomed(yard) as (router, family):
        router.send_signal(signal.SIGSTOP)
        os.kill(family[0], signal.SIGKILL)
        assert wait_until(lambda: is_gone(family[1])) < 1.5


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT])
def test_nothing_outlives_a_router_that_a_signal_ended(yard: Yard, number: int) -> None:
    """A terminal that closes, SIGTERM and Ctrl-C end the router, and with it the child."""
    with doomed(yard) as (router, family):
        router.send_signal(number)
        wait_until(lambda: all(is_gone(pid) for pid in family))


async def test_a_leftover_of_ours_is_ended_at_the_next_start(yard: Yard) -> None:
    """A child whose router and guardian could do nothing for it is ended by the next router."""
    with doomed(yard, "--fork-grandchild", "setsid") as (router, family):
        wait_until(lambda: len(json.loads((yard.run_dir / "fake.json").read_bytes())) == 2)
        os.kill(family[0], signal.SIGSTOP)  # the guardian sees nothing
        router.kill()
        router.wait()
    assert not any(is_gone(pid) for pid in family)
    async with yard.manager(yard.spec()) as manager:
        assert all(is_gone(pid) for pid in family)
        manager.set_desired({"fake": Want.EAGER})
        await manager.wait_for("fake", "ready")
        assert manager.status("fake").pid not in family
    assert not yard.journal("overlap")


def test_the_guardian_is_small_and_quick() -> None:
    """The guardian imports nothing that a child start would have to wait for."""
    modules = "import sys, backends.guardian; print(sorted({m.split('.')[0] for m in sys.modules}))"
    told = subprocess.run(
        [
            sys.executable,
            "-I",
            "-S",
            "-c",
            f"import sys; sys.path.append({str(ROOT)!r}); {modules}",
        ],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    for heavy in ("asyncio", "subprocess", "socket", "pathlib", "logging", "psutil", "typing_"):
        assert f"'{heavy}'" not in told


def test_an_unfinished_order_starts_nothing() -> None:
    """A router that dies while it gives the order leaves a guardian that just ends."""
    read_end, write_end = os.pipe()
    os.write(write_end, b'{"argv": ["')
    os.close(write_end)
    argv = [sys.executable, "-I", "-S", guardian.__file__, str(read_end), str(read_end)]
    with subprocess.Popen(argv, pass_fds=[read_end]) as process:
        assert process.wait() == 0
    os.close(read_end)


def test_an_order_in_pieces_with_commands() -> None:
    """The order ends at its newline; what came with it are commands."""
    read_end, write_end = os.pipe()
    os.write(write_end, b'{"argv": []}\nTK')
    assert guardian.read_order(read_end) == ({"argv": []}, b"TK")
    os.close(read_end)
    os.close(write_end)


def test_descendants_of_several_roots() -> None:
    """Whoever is below a root is found once, at any depth; strangers and roots are not."""
    parents = {2: 1, 3: 2, 4: 3, 5: 1, 6: 5, 7: 99}
    rows = {pid: Row(parent, "x") for pid, parent in parents.items()}
    assert descendants(rows, {2, 5}) == {3, 4, 6}
    assert descendants(rows, {98}) == set()


ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="there is no /proc")


@pytest.mark.parametrize("scan", [pytest.param(scan_proc, marks=ON_LINUX), scan_ps])
def test_both_scans_know_this_process(scan: Callable[[], dict[int, Row]]) -> None:
    """Either way to read the machine's processes finds this one, its parent, and no zombie."""
    zombie = subprocess.Popen([sys.executable, "-I", "-S", "-c", ""])
    os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
    rows = scan()
    assert rows[os.getpid()].parent == os.getppid()
    assert zombie.pid not in rows
    assert scan()[os.getpid()] == rows[os.getpid()]
    zombie.wait()


def test_a_tree_remembers_who_was_adopted_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a subreaper, one who was seen once is ours, unless its pid is somebody else's now."""
    tree = guardian.Tree()
    ours = {os.getpid(): Row(1, "a"), 100: Row(os.getpid(), "b"), 101: Row(100, "c")}
    monkeypatch.setattr(tree, "_scan", lambda: ours)
    assert tree.living() == [100, 101]
    adopted = {os.getpid(): Row(1, "a"), 101: Row(1, "c"), 102: Row(101, "d")}
    monkeypatch.setattr(tree, "_scan", lambda: adopted)
    assert tree.living() == [101, 102]
    reused = {os.getpid(): Row(1, "a"), 101: Row(1, "later"), 103: Row(101, "e")}
    monkeypatch.setattr(tree, "_scan", lambda: reused)
    assert tree.living() == []


def test_identity_of_the_living_and_the_dead() -> None:
    """A process keeps its identity, and one that is gone has none."""
    with subprocess.Popen(["sleep", "60"]) as sleeper:
        first = identity(sleeper.pid)
        assert first == identity(sleeper.pid)
        assert first != identity(os.getpid())
        sleeper.kill()
    assert identity(sleeper.pid) is None
