"""Notices a step that does not end, and a load that does not go on.

Nothing can interrupt either: a command that the GPU never finishes, a disk that never answers. Only
the end of the process helps.
"""

import asyncio
from dataclasses import dataclass

from backends.mlx_backend.desk import Desk
from backends.mlx_backend.errors import ChatError
from backends.mlx_backend.generation import EngineStatus

# How often at most it is looked.
_LEAST_LOOK_S = 0.5


@dataclass(frozen=True, slots=True)
class Hang:
    """What hangs: `text` for the log, `error` for everyone who is served."""

    text: str
    error: ChatError


@dataclass(frozen=True, slots=True)
class HangWatch:
    """A step may take `step_s`; a load may be silent for `load_stall_s`."""

    step_s: float
    load_stall_s: float

    async def wait(self, desk: Desk) -> Hang:
        """Return once something hangs."""
        while True:
            now = desk.status()
            hang = self.judge(now)
            if hang is not None:
                return hang
            await asyncio.sleep(max(self.left_s(now), _LEAST_LOOK_S))

    def left_s(self, now: EngineStatus) -> float:
        """Return in how many seconds at the earliest something may hang."""
        # A step that begins now may hang sooner than the load under way.
        if now.loading is None:
            return min(self.step_s - now.step_s, self.load_stall_s)
        return min(self.load_stall_s - now.loading.stalled_s, self.step_s)

    def judge(self, now: EngineStatus) -> Hang | None:
        """Tell what hangs; None while all goes on."""
        load = now.loading
        if load is not None and load.stalled_s >= self.load_stall_s:
            text = f"loading {load.model} has not gone on for {load.stalled_s:.0f} s"
            where = f"{text} (phase {load.phase}, {load.percent} %)"
            advice = "the backend is started again; look whether its disk answers, and try again"
            return Hang(where, ChatError("model_load_failed", f"{text}: {advice}", "model"))
        if now.step_s >= self.step_s:
            text = f"the model has not answered for {now.step_s:.0f} s and is started again"
            error = ChatError("generation_failed", f"{text}; try again")
            return Hang(f"a step has not ended for {now.step_s:.0f} s", error)
        return None
