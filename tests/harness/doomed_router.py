"""A router's process manager in a process of its own, there to be killed.

Run as `python -m tests.harness.doomed_router FOLDER SWITCH…`; starts one eager fake child with
those switches and waits for its end.
"""

import asyncio
import signal
import sys
from pathlib import Path

from backends.process_manager import Want
from tests.harness.children import Yard


async def main() -> None:
    """Keep the child alive until killed."""
    yard = Yard(Path(sys.argv[1]))
    async with yard.manager(yard.spec(*sys.argv[2:])) as manager:
        manager.set_desired({"fake": Want.EAGER})
        await asyncio.Event().wait()


if __name__ == "__main__":
    # Ignored by inheritance where a shell has started the tests in the background.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    asyncio.run(main())
