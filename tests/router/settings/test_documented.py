import json
import re

import pytest

from router.settings.faults import ANY, key_paths
from router.settings.sources import packaged_file, parse
from router.settings.tree import Settings

DEFAULT = packaged_file()


def test_the_schema_for_editors_is_current() -> None:
    """config/router.schema.json is what the settings' types say (scripts/schema rewrites it)."""
    written = json.loads((DEFAULT.parent / "router.schema.json").read_text(encoding="utf-8"))
    assert written == Settings.model_json_schema()


@pytest.mark.parametrize("path", key_paths(Settings), ids=".".join)
def test_every_setting_is_shown_in_the_commented_file(path: tuple[str, ...]) -> None:
    """Each key stands in its section of config/router.yaml, as a value or in a comment."""
    lines = DEFAULT.read_text(encoding="utf-8").splitlines()
    starts = [n for n, line in enumerate(lines) if line.startswith(f"{path[0]}:")]
    assert len(starts) == 1, f"{path[0]} stands at the left margin once"
    end = next(
        (n for n in range(starts[0] + 1, len(lines)) if re.match(r"[a-z]", lines[n])), len(lines)
    )
    # The paragraph of comments before a section belongs to it.
    begin = starts[0]
    while begin and lines[begin - 1].startswith("#"):
        begin -= 1
    section = "\n".join(lines[begin:end])
    assert path[-1] == ANY or re.search(rf"(^|[\s{{]){path[-1]}:", section)


def test_what_is_commented_out_is_valid_too(tmp_path: object) -> None:
    """Every example in a comment becomes part of a valid file when its mark is taken away."""
    text = DEFAULT.read_text(encoding="utf-8")
    shown = re.sub(r"^( +)# ( *[\w\"/.-]+:( |$))", r"\1\2", text, flags=re.MULTILINE)
    shown = re.sub(r"^(models|aliases): \{\}", r"\1:", shown, flags=re.MULTILINE)
    settings = Settings.model_validate(parse(shown))
    assert set(settings.providers) == {"builtin", "ollama", "openai", "anthropic", "llamacpp"}
    assert set(settings.models) == {"openai/gpt-5-mini", "builtin/my-vlm", "builtin/other"}
    assert set(settings.aliases) == {"gpt-4o", "chat-ui"}
    assert set(settings.capabilities) == {"text", "vision"}
