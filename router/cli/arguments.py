"""What can be typed after every command, and how a command gets its actions."""

import argparse
from collections.abc import Mapping
from pathlib import Path


def common(default: object) -> argparse.ArgumentParser:
    """Return the options of every command; `default` is what one that is not given leaves."""
    options = argparse.ArgumentParser(add_help=False, argument_default=default, allow_abbrev=False)
    options.add_argument("--config", type=Path, metavar="FILE", help="the configuration to read")
    options.add_argument("--data-dir", type=Path, metavar="DIR", help="where data is kept")
    options.add_argument("--url", help="where the router runs (default: as configured)")
    options.add_argument("--api-key", metavar="KEY", help="the key to show to the router")
    options.add_argument(
        "--json",
        action="store_true",
        default=False if default is None else default,
        help="print JSON instead of tables",
    )
    return options


def sentence(text: str) -> str:
    """Return a line of help as the whole sentence that stands above the options."""
    return text[0].upper() + text[1:] + "."


def actions(
    command: argparse.ArgumentParser, told: Mapping[str, str]
) -> dict[str, argparse.ArgumentParser]:
    """Give a command its actions with their help, the first one by default; return their parsers.

    The common options may stand before the action or after it; given after, they win.
    """
    parsers = command.add_subparsers(dest="action", metavar="ACTION")
    command.set_defaults(action=next(iter(told)))
    return {
        name: parsers.add_parser(
            name,
            help=text,
            description=sentence(text),
            parents=[common(argparse.SUPPRESS)],
            allow_abbrev=False,
        )
        for name, text in told.items()
    }
