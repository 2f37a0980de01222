import pytest

from backends.catalogue import find_builtin
from router.cli.welcome import Lever, Machine, welcome

URL = "http://127.0.0.1:60315"
MAC = Machine("Darwin", "arm64", "15.1", 16000, has_mlx=True)
SMALL_MAC = Machine("Darwin", "arm64", "15.1", 7000, has_mlx=True)
OLD_MAC = Machine("Darwin", "arm64", "13.6", 16000, has_mlx=False)
LINUX = Machine("Linux", "x86_64", "", 16000, has_mlx=True)
BARE = Machine("Linux", "x86_64", "", 4000, has_mlx=False)
SMALL = "builtin/smollm2-135m"
TEXT = Lever("text", (SMALL,), "ready")
ABSENT = Lever("text", (SMALL,), "needs_download")
SIGHT = Lever("vision", ("builtin/qwen3-vl-4b",), "stopped")
OLLAMA = Lever("text", ("ollama/a", "ollama/b"), "external")


def commands(machine: Machine, *levers: Lever, on_disk: frozenset[str] = frozenset()) -> list[str]:
    """Return what is proposed to type."""
    lines = welcome(URL, machine, levers, on_disk)
    after = lines[lines.index("Next:") + 1 :]
    return [line.strip().partition("      ")[0] for line in after]


def test_it_says_who_serves_what_and_what_nobody_does() -> None:
    """The map comes first, the first model and the fallbacks in their order."""
    lines = welcome(URL, MAC, [OLLAMA, SIGHT, Lever("tool_use", (), "unassigned")], frozenset())
    assert lines[:4] == [
        "Signalbox answers at http://127.0.0.1:60315/v1",
        "  text    ollama/a, ollama/b  (external)",
        "  vision  builtin/qwen3-vl-4b  (not running yet)",
        "  nobody serves structured_output or tool_use yet",
    ]


def test_nothing_missing_is_not_mentioned() -> None:
    """Four levers that are served leave nothing to complain of."""
    names = ("text", "vision", "structured_output", "tool_use")
    lines = welcome(URL, MAC, [Lever(name, ("o/m",), "external") for name in names], frozenset())
    assert not any("nobody" in line for line in lines)
    most = names[:3]
    lines = welcome(URL, MAC, [Lever(name, ("o/m",), "external") for name in most], frozenset())
    assert "  nobody serves tool_use yet" in lines


ASK = 'signalbox ask "What can you do?"'
MAP = "signalbox capabilities"
SEE = "signalbox capabilities assign vision builtin/qwen3-vl-4b"
NO_MLX = "The builtin models cannot run on this machine: MLX is not installed here."


@pytest.mark.parametrize(
    ("machine", "levers", "expected"),
    [
        (LINUX, [TEXT], [ASK, MAP]),
        (LINUX, [ABSENT], ["signalbox models pull smollm2-135m", ASK, MAP]),
        (SMALL_MAC, [TEXT], [ASK, MAP]),
        (MAC, [TEXT, SIGHT], [ASK, MAP]),
        (MAC, [], ["hf", SEE, MAP]),
        (MAC, [TEXT], [ASK, "hf", SEE, MAP]),
        (BARE, [OLLAMA], [ASK, MAP]),
        (
            BARE,
            [TEXT],
            [
                NO_MLX,
                "With Ollama installed and running:",
                "ollama pull llama3.2:1b",
                "signalbox capabilities assign text ollama/llama3.2:1b",
                ASK,
            ],
        ),
        (
            OLD_MAC,
            [],
            [
                "macOS 13.6 is too old for the builtin models (14 or newer runs them).",
                "With Ollama installed and running:",
                "ollama pull gemma3:4b",
                "signalbox capabilities assign text ollama/gemma3:4b",
                "signalbox capabilities assign vision ollama/gemma3:4b",
                ASK,
            ],
        ),
    ],
)
def test_the_next_step_fits_the_machine(
    machine: Machine, levers: list[Lever], expected: list[str]
) -> None:
    """What is proposed works on this machine, and leads on from where it stands."""
    model = find_builtin("qwen3-vl-4b")
    assert model is not None
    fetch = "signalbox models pull qwen3-vl-4b" if model.sources else f"hf download {model.repo}"
    assert commands(machine, *levers) == [fetch if line == "hf" else line for line in expected]


def test_a_model_that_is_there_need_not_be_fetched() -> None:
    """On Apple silicon the larger model is only to be assigned once it is on disk."""
    assert commands(MAC, TEXT, on_disk=frozenset({"qwen3-vl-4b"})) == [ASK, SEE, MAP]
