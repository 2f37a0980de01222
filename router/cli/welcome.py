"""What `serve` says once it answers: what serves, what does not, and what to type next (pure)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from backends.catalogue import BuiltinModel, find_builtin

# The four that a first-time user looks for; the other families are for those who know them.
LEVERS: Final = ("text", "vision", "structured_output", "tool_use")
SEES: Final = "qwen3-vl-4b"
_ENOUGH_MB: Final = 8000
# From Ollama's library: one that sees, and one for small machines.
_OLLAMA_SEES: Final = "gemma3:4b"
_OLLAMA_SMALL: Final = "llama3.2:1b"


@dataclass(frozen=True, slots=True)
class Machine:
    """What matters of the machine; `macos` is a version or "", `memory_mb` in million bytes."""

    system: str
    processor: str
    macos: str
    memory_mb: int
    has_mlx: bool

    @property
    def is_apple_silicon(self) -> bool:
        """Whether it has the GPU that MLX is made for."""
        return self.system == "Darwin" and self.processor == "arm64"

    @property
    def macos_is_too_old(self) -> bool:
        """Whether only its macOS keeps MLX away."""
        major = self.macos.partition(".")[0]
        return self.is_apple_silicon and major.isdigit() and int(major) < 14  # noqa: PLR2004 MLX's own floor


@dataclass(frozen=True, slots=True)
class Lever:
    """One capability as the map has it: the models bound to it and the state of the first."""

    capability: str
    models: tuple[str, ...]
    state: str


def welcome(
    url: str, machine: Machine, levers: Sequence[Lever], on_disk: frozenset[str]
) -> list[str]:
    """Return the lines to print; `on_disk` holds the aliases of builtin models that are there."""
    bound = [lever for lever in levers if lever.models]
    width = max((len(lever.capability) for lever in bound), default=0)
    lines = [f"Signalbox answers at {url}/v1"]
    lines += [
        f"  {lever.capability:<{width}}  {', '.join(lever.models)}  ({_state(lever.state)})"
        for lever in bound
    ]
    served = {lever.capability for lever in bound}
    missing = [name for name in LEVERS if name not in served]
    if missing:
        lines.append(f"  nobody serves {_listed(missing)} yet")
    hints = list(_hints(machine, bound, missing, on_disk))
    return [*lines, "", "Next:", *(f"  {hint}" for hint in hints)]


def _state(state: str) -> str:
    # What is bound is started by itself: nobody has to do anything about it.
    return "not running yet" if state == "stopped" else state.replace("_", " ")


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


def _hints(
    machine: Machine, bound: Sequence[Lever], missing: Sequence[str], on_disk: frozenset[str]
) -> Iterator[str]:
    builtin = [lever for lever in bound if lever.models[0].startswith("builtin/")]
    if not machine.has_mlx and (builtin or not bound):
        yield from _ollama(machine)
        return
    for alias in dict.fromkeys(
        lever.models[0].removeprefix("builtin/")
        for lever in builtin
        if lever.state == "needs_download"
    ):
        yield _fetch(find_builtin(alias), alias)
    if "text" not in missing:
        yield 'signalbox ask "What can you do?"'
    if "vision" in missing:
        yield from _sight(machine, on_disk)
    yield "signalbox capabilities        (who serves what; `signalbox --help` for the rest)"


def _fetch(model: BuiltinModel | None, alias: str) -> str:
    size = f"        ({model.size_mb} MB)" if model is not None else ""
    return f"signalbox models pull {alias}{size}"


def _sight(machine: Machine, on_disk: frozenset[str]) -> Iterator[str]:
    if not (machine.has_mlx and machine.is_apple_silicon and machine.memory_mb >= _ENOUGH_MB):
        return
    model = find_builtin(SEES)
    if model is None:
        return
    if SEES not in on_disk:
        if model.sources:
            yield _fetch(model, SEES)
        else:
            yield f"hf download {model.repo}        ({model.size_mb} MB; sees pictures)"
    yield f"signalbox capabilities assign vision builtin/{SEES}"


def _ollama(machine: Machine) -> Iterator[str]:
    """Yield one way that works where the builtin models cannot."""
    if machine.macos_is_too_old:
        yield f"macOS {machine.macos} is too old for the builtin models (14 or newer runs them)."
    else:
        yield "The builtin models cannot run on this machine: MLX is not installed here."
    model = _OLLAMA_SEES if machine.memory_mb >= _ENOUGH_MB else _OLLAMA_SMALL
    yield "With Ollama installed and running:"
    yield f"  ollama pull {model}"
    yield f"  signalbox capabilities assign text ollama/{model}"
    if model == _OLLAMA_SEES:
        yield f"  signalbox capabilities assign vision ollama/{model}"
    yield '  signalbox ask "What can you do?"'
