"""The builtin backend, as `-m tests.harness.hanging_backend MARKER …`, whose model hangs once.

The fourth step in which tokens are drawn never ends, as a Metal command may not, unless the file
MARKER says that this has happened before.
"""

import sys
import threading
from pathlib import Path

from backends.mlx_backend.__main__ import main
from backends.mlx_backend.rows import Ended, ModelRows

_STEPS_BEFORE = 3


def _hang_once(marker: Path) -> None:
    decode = ModelRows.decode
    steps = 0

    def decode_or_hang(rows: ModelRows, alone: int | None = None) -> list[Ended]:
        nonlocal steps
        steps += 1
        if steps > _STEPS_BEFORE and not marker.exists():
            marker.touch()
            threading.Event().wait()
        return decode(rows, alone)

    ModelRows.decode = decode_or_hang  # type: ignore[method-assign, assignment]  # a method of it


if __name__ == "__main__":
    _hang_once(Path(sys.argv.pop(1)))
    sys.exit(main())
