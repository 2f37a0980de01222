"""Command-line options that both benchmarks have."""

import argparse
from collections.abc import Callable, Sequence


def some_of(names: Sequence[str]) -> Callable[[str], list[str]]:
    """Return what reads a comma-separated choice of names, which comes in our order, each once."""

    def parse(text: str) -> list[str]:
        wanted = [name.strip() for name in text.split(",")]
        for name in wanted:
            if name not in names:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(names)}")
        return [name for name in names if name in wanted]

    return parse
