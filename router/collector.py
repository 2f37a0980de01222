"""The garbage collector's part: what stays is not looked through again and again."""

import gc

# A request leaves no cycle behind, so there is little to find; by default Python looks after each
# 700 objects that are alive at once, which 32 requests in flight are all the time.
_YOUNG = 20_000


def hold() -> None:
    """Collect nothing while modules are loaded, of which nothing becomes garbage."""
    gc.disable()


def spare() -> None:
    """Set all aside that is there by now, and collect only what is made from here on."""
    gc.freeze()
    gc.set_threshold(_YOUNG, *gc.get_threshold()[1:])
    gc.enable()
