import asyncio
import random

import pytest

from backends.process_manager import BackendUnavailable, Want
from backends.wire import ProcessState as S
from tests.harness.children import Yard, ask, is_gone

WANTS = (Want.NO, Want.EAGER, Want.ON_DEMAND)


@pytest.mark.parametrize("seed", range(5))
async def test_the_last_word_counts(yard: Yard, seed: int) -> None:
    """However often the map flips, its last word holds; two children never live at once."""
    dice = random.Random(seed)  # noqa: S311 repeatable
    async with yard.manager(yard.spec("--fork-grandchild", "plain")) as manager:
        for _ in range(20):
            manager.set_desired({"fake": dice.choice(WANTS)})
            await asyncio.sleep(dice.choice((0, 0, 0.002, 0.02, 0.05)))
        last = dice.choice((Want.NO, Want.EAGER))
        manager.set_desired({"fake": last})
        async with asyncio.timeout(60):
            await manager.wait_for("fake", "ready" if last is Want.EAGER else "gone")
        status = manager.status("fake")
        if last is Want.EAGER:
            assert await ask(status.port) == str(status.pid).encode()
        else:
            assert status.state is S.STOPPED
        assert status.generation >= len(set(yard.journal("start")))
    assert not yard.journal("overlap")
    assert all(is_gone(pid) for pid in yard.journal("start"))


@pytest.mark.parametrize("seed", range(3))
async def test_callers_among_flips_are_answered(yard: Yard, seed: int) -> None:
    """Each caller gets a live process or a refusal, none waits for ever, no lease is left."""
    dice = random.Random(seed)  # noqa: S311 repeatable
    async with yard.manager(yard.spec()) as manager:

        async def call(delay_s: float) -> str:
            await asyncio.sleep(delay_s)
            try:
                async with manager.lease("fake"):
                    status = manager.status("fake")
                    assert await ask(status.port) == str(status.pid).encode()
                    return "served"
            except BackendUnavailable as refused:
                return refused.code

        async def insist() -> str:
            while (answer := await call(0.01)) != "served":
                assert answer == "backend_not_assigned"
            return answer

        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            calls = [group.create_task(call(dice.random())) for _ in range(50)]
            calls.append(group.create_task(insist()))
            while not all(task.done() for task in calls):
                want = dice.choice(WANTS)
                manager.set_desired({"fake": want})
                if want is Want.EAGER and dice.random() < 0.3:
                    # However long a start takes here, some are let come to their end.
                    await manager.wait_for("fake", "ready")
                await asyncio.sleep(dice.choice((0.01, 0.05)))
        answers = {task.result() for task in calls}
        assert answers <= {"served", "backend_not_assigned"}
        assert "served" in answers
        assert manager.status("fake").leases == 0
    assert not yard.journal("overlap")


@pytest.mark.parametrize("want", [Want.EAGER, Want.ON_DEMAND])
@pytest.mark.parametrize("seed", range(3))
async def test_callers_that_lose_patience_during_a_start_leave_one_child_at_most(
    yard: Yard, seed: int, want: Want
) -> None:
    """A start that the map wants is one start for all; on demand it ends with its last caller."""
    dice = random.Random(seed)  # noqa: S311 repeatable
    async with yard.manager(yard.spec()) as manager:
        manager.set_desired({"fake": want})

        async def visit(delay_s: float, patience_s: float) -> bool:
            await asyncio.sleep(delay_s)
            try:
                async with asyncio.timeout(patience_s), manager.lease("fake"):
                    status = manager.status("fake")
                    return await ask(status.port) == str(status.pid).encode()
            except TimeoutError:
                return False

        patience_s = (0, 0.001, 0.005, 0.02, 0.05)
        async with asyncio.timeout(20), asyncio.TaskGroup() as group:
            for _ in range(60):
                group.create_task(visit(dice.random() * 0.3, dice.choice(patience_s)))
        assert await visit(0, 10)
        status = manager.status("fake")
        assert (status.state, status.leases) == (S.READY, 0)
        starts = yard.journal("start")
        assert starts[-1] == status.pid
        assert all(is_gone(pid) for pid in starts[:-1])
        if want is Want.EAGER:
            assert (len(starts), status.generation) == (1, 1)
    assert not yard.journal("overlap")
    assert is_gone(starts[-1])
