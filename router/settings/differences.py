"""What two trees of settings do not agree on (pure)."""

from collections.abc import Iterator, Mapping

from router.settings.section import Section


def differences(before: object, after: object, place: str = "") -> Iterator[str]:
    """Yield the places that differ, in the order of the tree; a name that came or went is one."""
    if isinstance(before, Section) and type(before) is type(after):
        for key in type(before).model_fields:
            yield from differences(getattr(before, key), getattr(after, key), _under(place, key))
    elif isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in dict.fromkeys([*before, *after]):
            if key in before and key in after:
                yield from differences(before[key], after[key], _under(place, str(key)))
            else:
                yield _under(place, str(key))
    elif before != after:
        yield place


def _under(place: str, key: str) -> str:
    return f"{place}.{key}" if place else key
