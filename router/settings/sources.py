"""Where settings come from: the file, the environment, the platform's folders.

Everything here deals in plain mappings; `tree` makes frozen types of them.
"""

import os
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import yaml

from backends.places import user_folder

PREFIX: Final = "SIGNALBOX_"
# Variables that are read elsewhere and are no settings: which file, which key the CLI sends, and
# which lock `scripts/setup` installs.
_OTHER_VARIABLES: Final = frozenset({"CONFIG", "API_KEY", "LOCK"})
_MERGE_TAG: Final = "tag:yaml.org,2002:merge"

if TYPE_CHECKING:
    _SafeLoader = yaml.SafeLoader
else:
    # libyaml's parser is ten times faster; a PyYAML built without it has only its own.
    _SafeLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class SettingsError(Exception):
    """The settings cannot be used; the text is ready to print, one line for each fault."""

    def __init__(self, lines: Iterable[str]) -> None:
        """Keep the lines; `str()` joins them."""
        self.lines = tuple(lines)
        super().__init__("\n".join(self.lines))


@dataclass(frozen=True, slots=True)
class Origin:
    """What settings were read from, so that they can be read again: the arguments of `load`."""

    config: Path | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    environ: Mapping[str, str] = field(default_factory=dict, repr=False)


class _Loader(_SafeLoader):
    """YAML 1.2's plain scalars (no `off` that means false, no octal, no dates), no key twice."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 PyYAML's own hook

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002 PyYAML's signature
        seen: set[str] = set()
        for key, _ in node.value:
            if key.tag != _MERGE_TAG and key.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"the key {key.value!r} stands here twice", problem_mark=key.start_mark
                )
            seen.add(key.value)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep=deep)
        return mapping


for _tag, _pattern, _first in (
    ("bool", r"true|false", "tf"),
    ("int", r"[-+]?(0|[1-9][0-9]*)", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("null", r"null|~|", ["n", "~", ""]),
    ("merge", r"<<", "<"),
):
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_pattern})$"), list(_first)
    )


def environment() -> dict[str, str]:
    """Return a copy of this process's environment: the only place where it is read."""
    return dict(os.environ)  # noqa: TID251 the one reading of it


def packaged_file() -> Path:
    """Return the commented default: the checkout's, or the one that an installed tool carries."""
    installed = Path(__file__).parents[1] / "default.yaml"
    return installed if installed.is_file() else Path(__file__).parents[2] / "config/router.yaml"


def find_file(config: Path | None, environ: Mapping[str, str]) -> Path:
    """Return the one file to read: named, from SIGNALBOX_CONFIG, the user's, else the packaged one.

    Only a file that was named must exist; SettingsError if it doesn't.
    """
    named = config or (Path(text) if (text := environ.get(PREFIX + "CONFIG")) else None)
    if named is not None:
        if _is_file(named):
            return named
        origin = "--config" if config else PREFIX + "CONFIG"
        raise SettingsError([f"{named}: there is no such file ({origin} names it)"])
    folder = user_folder(sys.platform, environ, config=True)
    if folder is not None and _is_file(folder / "router.yaml"):
        return folder / "router.yaml"
    return packaged_file()


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError as exc:
        # A folder that we may not look into may well hold one.
        raise SettingsError([f"{path}: {exc.strerror}"]) from exc


def data_folder(environ: Mapping[str, str]) -> Path:
    """Return the platform's folder for this user's data; SettingsError where there is no home."""
    folder = user_folder(sys.platform, environ, config=False)
    if folder is None:
        raise SettingsError(
            ["this user has no home folder to keep data in: name one with --data-dir DIR"]
        )
    return folder


def read_file(path: Path) -> dict[str, Any]:
    """Read one YAML file into a mapping; SettingsError says where it is not what it should be."""
    try:
        content = parse(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise SettingsError([f"{path}: {exc.strerror}"]) from exc
    except UnicodeDecodeError as exc:
        raise SettingsError([f"{path}: this is not UTF-8 text (byte {exc.start})"]) from exc
    except yaml.YAMLError as exc:
        raise SettingsError([_yaml_fault(path, exc)]) from exc
    except RecursionError as exc:
        raise SettingsError([f"{path}: nested too deep"]) from exc
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise SettingsError([f"{path}: the file must hold settings by name, as in `server: ...`"])
    return content


def parse(text: str) -> Any:
    """Read one YAML document; yaml.YAMLError if it isn't one."""
    return yaml.load(text, Loader=_Loader)  # noqa: S506 a subclass of the safe loader


def _yaml_fault(path: Path, exc: yaml.YAMLError) -> str:
    mark = getattr(exc, "problem_mark", None)
    problem = getattr(exc, "problem", None) or "this is not YAML"
    return f"{path}:{mark.line + 1}: {problem}" if mark else f"{path}: {problem}"


class Layers:
    """One mapping made of several sources, later ones winning, that remembers who said what.

    `fault` then names the source of a value: the file, a variable, the command line.
    """

    def __init__(self, tree: dict[str, Any], source: str) -> None:
        """Start with what the file says."""
        self.tree = tree
        self._source = source
        self._origins: dict[tuple[str, ...], str] = {}

    def add_environment(self, environ: Mapping[str, str]) -> None:
        """Lay `SIGNALBOX_SECTION__KEY=value` over it; the value is read as YAML."""
        for variable in sorted(environ):
            name = variable.removeprefix(PREFIX)
            if name == variable or name in _OTHER_VARIABLES or not environ[variable].strip():
                continue
            self._put(tuple(name.lower().split("__")), _scalar(environ[variable]), variable)

    def add_options(self, options: Mapping[str, Any], path: tuple[str, ...] = ()) -> None:
        """Lay nested options of the command line over it; None stands for "not given"."""
        for key, value in options.items():
            if isinstance(value, Mapping):
                self.add_options(value, (*path, key))
            elif value is not None:
                self._put((*path, key), value, "command line")

    def _put(self, path: tuple[str, ...], value: Any, origin: str) -> None:
        here, at = self.tree, list(path)
        for depth, part in enumerate(path):
            # A variable's name cannot hold every character that a provider's can.
            at[depth] = next((key for key in here if _plain(str(key)) == _plain(part)), part)
            if depth == len(path) - 1:
                break
            inner = here.setdefault(at[depth], {})
            if inner is None:
                inner = here[at[depth]] = {}
            if not isinstance(inner, dict):
                raise SettingsError(
                    [f"{origin}: {'.'.join(at[: depth + 1])} holds no settings by name here"]
                )
            here = inner
        here[at[-1]] = value
        self._origins[tuple(at)] = origin

    def fault(self, path: tuple[str, ...] | str, text: str) -> str:
        """Return one line: who said it, where, and what is wrong."""
        place = path if isinstance(path, str) else ".".join(path)
        origin = next(
            (name for put, name in self._origins.items() if _starts(place, ".".join(put))),
            self._source,
        )
        return f"{origin}: {place}: {text}"


def _scalar(text: str) -> Any:
    try:
        return parse(text)
    except yaml.YAMLError:
        return text  # `*` or `[::1` are no YAML, and may be what was meant


def _plain(key: str) -> str:
    return re.sub(r"[^a-z0-9]", "_", key.lower())


def _starts(place: str, start: str) -> bool:
    return place == start or place.startswith(start + ".")
