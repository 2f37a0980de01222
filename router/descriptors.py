"""File descriptors: as many as the system gives us, and how many clients they are enough for."""

import logging
import resource

log = logging.getLogger(__name__)

# More than any one machine's clients need; the kernel's own tables grow with what is used.
_WANTED = 65_536
# macOS says "unlimited" and then refuses whatever is over OPEN_MAX or kern.maxfilesperproc.
_OPEN_MAX = 10_240
# The loop, the lock, the store and its log, each child's pipes: what no client causes.
_OURS = 32
_FEWEST = 8


def raise_limit() -> int:
    """Raise the soft limit on open files as far as the hard one allows; return what holds now.

    The usual soft limit (1,024, macOS: 256) exists for programs that call select(); we poll. Our
    children inherit the raised limit: it harms none that does not open over a thousand files and
    then calls select() on them.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _WANTED if hard == resource.RLIM_INFINITY else min(hard, _WANTED)
    if soft == resource.RLIM_INFINITY:
        return _WANTED
    for limit in (most, min(most, _OPEN_MAX)):
        if limit <= soft:
            break
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        except (OSError, ValueError):
            log.debug("the system refuses a limit of %d open files", limit)
        else:
            return limit
    return soft


def places_for_clients(limit: int) -> int:
    """Return how many clients may be connected when so many files may be open.

    Half of what is not ours: each client's request may need a connection to a provider.
    """
    return max(_FEWEST, (limit - _OURS) // 2)
