import json
import re

import pytest

from router.settings.faults import key_paths
from router.settings.sources import packaged_file, parse
from router.settings.tree import Settings
from router.settings.unbuilt import WITHOUT_EFFECT

DEFAULT = packaged_file()


def test_the_schema_for_editors_is_current() -> None:
    """config/router.schema.json is what the settings' types say (scripts/schema rewrites it)."""
    written = json.loads((DEFAULT.parent / "router.schema.json").read_text(encoding="utf-8"))
    assert written == Settings.model_json_schema()


def section_of(name: str) -> list[str]:
    """Return a section's lines, with the paragraph of comments before it."""
    lines = DEFAULT.read_text(encoding="utf-8").splitlines()
    (start,) = (n for n, line in enumerate(lines) if line.startswith(f"{name}:"))
    following = (n for n in range(start + 1, len(lines)) if re.match(r"[a-z]|$", lines[n]))
    end = next(following, len(lines))
    while start and lines[start - 1].startswith("#"):
        start -= 1
    return lines[start:end]


def lines_of(path: tuple[str, ...]) -> list[str]:
    """Return the lines of a section that show a key."""
    return [line for line in section_of(path[0]) if re.search(rf"(^|[\s{{]){path[-1]}:", line)]


@pytest.mark.parametrize("path", key_paths(Settings), ids=".".join)
def test_every_setting_is_shown_in_the_commented_file(path: tuple[str, ...]) -> None:
    """Each key stands in its section of config/router.yaml, as a value or in a comment."""
    assert lines_of(path)


@pytest.mark.parametrize("key", WITHOUT_EFFECT)
def test_what_has_no_effect_yet_says_so_where_it_is_shown(key: str) -> None:
    """A person who reads the file is not promised what is not there."""
    path = tuple(key.split("."))
    heading = [line for line in section_of(path[0]) if line.startswith("#")]
    assert any("not built yet" in line.lower() for line in [*lines_of(path), *heading])


def test_what_is_commented_out_is_valid_too() -> None:
    """Every example in a comment becomes part of a valid file when its mark is taken away."""
    text = DEFAULT.read_text(encoding="utf-8")
    shown = re.sub(r"^( +)# ( *[\w\"/.-]+:( |$))", r"\1\2", text, flags=re.MULTILINE)
    shown = re.sub(r"^(models|aliases): \{\}", r"\1:", shown, flags=re.MULTILINE)
    settings = Settings.model_validate(parse(shown))
    assert set(settings.providers) == {"builtin", "ollama", "openai", "anthropic", "llamacpp"}
    assert set(settings.models) == {"openai/gpt-5-mini", "builtin/my-vlm", "builtin/other"}
    assert set(settings.aliases) == {"gpt-4o", "chat-ui"}
    shown_too = {"text", "vision", "structured_output", "tool_use"}
    assert set(settings.capabilities) == shown_too
