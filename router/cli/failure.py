"""How a command fails: the text that it prints and the exit code that scripts can use."""

from enum import IntEnum


class Exit(IntEnum):
    """The exit codes, as `signalbox --help` lists them."""

    OK = 0
    REFUSED = 1
    USAGE = 2
    NOT_RUNNING = 3
    INTERRUPTED = 130


class CommandFailure(Exception):
    """A command could not do what it was asked; the text says why and what to do."""

    exit = Exit.REFUSED


class UsageFailure(CommandFailure):
    """What was typed cannot be meant."""

    exit = Exit.USAGE


class NotRunning(CommandFailure):
    """There is no router to talk to."""

    exit = Exit.NOT_RUNNING

    def __init__(self, url: str) -> None:
        super().__init__(
            f"Signalbox is not running at {url}. Start it with: signalbox serve "
            "(or name where it runs: --url)"
        )
