"""What is wished of one process: written down by anyone on the loop's thread, read by its owner."""

from collections.abc import Callable

from backends.callers import SHUTTING_DOWN
from backends.process_spec import Want
from backends.setbacks import Failure


class Wishes:
    """The wishes of a moment; `changed` is called at each new one.

    `assignment` counts the changes of `want`, `outdated` says that the run was started for another
    spec and is to be replaced once nobody uses it.
    """

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self.want = Want.NO
        self.assignment = 0
        self.restart = False
        self.closing = False
        self.outdated = False

    def __repr__(self) -> str:
        return f"<Wishes {self.want.value} restart={self.restart} closing={self.closing}>"

    def set_want(self, want: Want) -> None:
        """Say how much it is wanted from now on; the last word counts."""
        if want is not self.want:
            self.want = want
            self.assignment += 1
            self._changed()

    def ask_restart(self) -> None:
        """Ask for a fresh run."""
        self.restart = True
        self._changed()

    def ask_renewal(self, *, at_once: bool) -> None:
        """Ask for a fresh run once nobody uses this one, or at once."""
        self.outdated = True
        self.restart = self.restart or at_once
        self._changed()

    def close(self) -> None:
        """Ask for the end."""
        self.closing = True
        self._changed()

    @property
    def must_stop(self) -> bool:
        """Whether a run has to end."""
        return self.closing or self.restart or self.want is Want.NO

    def refusal(self, name: str) -> Failure | None:
        """Return why nobody gets a lease, if that is wished."""
        if self.closing:
            return Failure(*SHUTTING_DOWN)
        if self.want is Want.NO:
            advice = "assign one of its models to a capability first"
            text = f"no capability points at {name}: {advice}"
            return Failure("backend_not_assigned", text)
        return None
