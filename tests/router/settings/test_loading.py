import os
import pwd
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from backends.places import user_folder
from backends.wire import Priority
from router.capabilities import Capability
from router.settings import (
    Settings,
    SettingsError,
    access_keys,
    child_environment,
    load,
    refuse_unbuilt,
)
from router.settings.providers import BuiltinProvider, OllamaProvider
from router.settings.sources import packaged_file


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """Return an environment whose user has no file of their own."""
    return {"HOME": str(tmp_path / "home")}


def write(folder: Path, text: str) -> Path:
    """Write a configuration."""
    path = folder / "router.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def refused(
    config: Path, environ: Mapping[str, str], overrides: Mapping[str, Any] | None = None
) -> list[str]:
    """Return the lines of a refusal, without the file's name."""
    with pytest.raises(SettingsError) as caught:
        load(config, overrides or {}, environ)
    return [line.removeprefix(f"{config}: ") for line in caught.value.lines]


def test_the_packaged_default_binds_what_the_small_model_can_do_and_nothing_else(
    home: dict[str, str],
) -> None:
    """Without a file of one's own the packaged default is read, and it can start."""
    settings = load(None, {}, home)
    assert settings.source == packaged_file()
    assert {name: b.models for name, b in settings.capabilities.items()} == dict.fromkeys(
        ("text", "structured_output", "tool_use"), ("builtin/smollm2-135m",)
    )
    assert set(settings.providers) == {"builtin", "ollama"}
    assert (settings.server.host, settings.server.port) == ("127.0.0.1", 60315)
    assert settings.default_priority is Priority.LOW
    assert refuse_unbuilt(settings) == []
    assert settings.notices == ()


def test_the_commented_file_and_the_code_agree_on_every_default(home: dict[str, str]) -> None:
    """A key that a file leaves out has the value that the packaged file shows for it."""
    shown, coded = load(None, {}, home), Settings()
    for name in set(Settings.model_fields) - {"providers", "capabilities", "lanes"}:
        assert getattr(shown, name) == getattr(coded, name), name
    assert shown.lane("ollama") == coded.lane("ollama")
    assert shown.providers["builtin"] == BuiltinProvider(kind="builtin")
    assert shown.providers["ollama"] == OllamaProvider(kind="ollama")


def test_what_a_file_says_of_providers_replaces_the_default_whole(
    home: dict[str, str], tmp_path: Path
) -> None:
    """A file's providers are all there are, and the default's binding to another is left out."""
    path = write(tmp_path, "providers: {o: {kind: openai, base_url: http://10.0.0.1:8080/v1/}}")
    settings = load(path, {}, home)
    assert list(settings.providers) == ["o"]
    assert settings.providers["o"].base_url == "http://10.0.0.1:8080/v1"  # type: ignore[union-attr]
    assert settings.capabilities == {}
    assert [notice.partition(" is left out")[0] for notice in settings.notices] == [
        f"capabilities.{capability}: the default, builtin/smollm2-135m,"
        for capability in ("text", "structured_output", "tool_use")
    ]


def test_a_key_left_out_inside_a_section_has_its_default(
    home: dict[str, str], tmp_path: Path
) -> None:
    """A section need not be complete."""
    settings = load(write(tmp_path, "timeouts: {idle_s: 1.5}\nserver:\n"), {}, home)
    assert (settings.timeouts.idle_s, settings.timeouts.total_s) == (1.5, 3600)
    assert settings.server.port == 60315


def test_command_line_over_environment_over_file(home: dict[str, str], tmp_path: Path) -> None:
    """Each source wins over the one before."""
    path = write(tmp_path, "server: {port: 1001, host: 127.0.0.1}")
    assert load(path, {}, home).server.port == 1001
    variables = {**home, "SIGNALBOX_SERVER__PORT": "1002"}
    assert load(path, {}, variables).server.port == 1002
    assert load(path, {"server": {"port": 1003, "host": None}}, variables).server.port == 1003


def test_variables_reach_names_that_the_user_chose(home: dict[str, str], tmp_path: Path) -> None:
    """A variable's name finds a provider whose name holds characters that it cannot."""
    path = write(
        tmp_path,
        "providers: {my-Server: {kind: openai, base_url: http://a/v1}}\ncapabilities: {}",
    )
    variables = {
        **home,
        "SIGNALBOX_PROVIDERS__MY_SERVER__BASE_URL": "http://127.0.0.1:9/v1",
        "SIGNALBOX_CAPABILITIES__TEXT": "[my-Server/x, my-Server/y]",
        "SIGNALBOX_LOCAL_ONLY": "true",
        "SIGNALBOX_CONFIG": "/nowhere",
        "SIGNALBOX_LOG__LEVEL": "",
    }
    settings = load(path, {}, variables)
    assert settings.providers["my-Server"].is_local
    assert settings.capabilities[Capability.TEXT].models == ("my-Server/x", "my-Server/y")
    assert settings.local_only


def test_the_first_file_found_is_the_only_one_read(home: dict[str, str], tmp_path: Path) -> None:
    """A named file wins over SIGNALBOX_CONFIG, that over the user's, that over the packaged one."""
    named = write(tmp_path / "named", "server: {port: 1}")
    variable = write(tmp_path / "variable", "log: {level: debug}")
    users = write(tmp_path / "xdg/signalbox", "server: {port: 3}")
    environ = {
        **home,
        "SIGNALBOX_CONFIG": str(variable),
        "XDG_CONFIG_HOME": str(tmp_path / "xdg"),
    }
    assert load(named, {}, environ).source == named
    assert load(None, {}, environ).source == variable
    assert load(None, {}, environ).server.port == 60315
    del environ["SIGNALBOX_CONFIG"]
    assert load(None, {}, environ).source == users


def test_a_named_file_that_is_missing_is_an_error(home: dict[str, str], tmp_path: Path) -> None:
    """A named file must be there: reading another one instead would surprise."""
    missing = tmp_path / "no.yaml"
    assert refused(missing, home) == ["there is no such file (--config names it)"]
    with pytest.raises(SettingsError, match="SIGNALBOX_CONFIG names it"):
        load(None, {}, {**home, "SIGNALBOX_CONFIG": str(missing)})


def test_a_place_that_cannot_be_looked_at_is_told(home: dict[str, str], tmp_path: Path) -> None:
    """What may be there is not taken for absent, and whoever watches it goes on watching."""
    assert refused(tmp_path / ("x" * 300), home) == ["File name too long"]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "providers: {a: {kind: ollama, headers: {Authorization: x}}}",
            "providers.a.headers.Authorization: this header is the router's own",
        ),
        ('providers: {a: {kind: ollama, headers: {X-A: "b\\nc"}}}', "providers.a.headers"),
        (
            "capabilities: {text: builtin/x}",
            "capabilities.text: write a list of models: [builtin/x]",
        ),
        ("server: {prt: 1}", "server.prt: unknown key (did you mean port?)"),
        ("prot: 1", "prot: unknown key"),
        ("base_url: x", "base_url: unknown key"),
        ("max_side_px: 1", "max_side_px: unknown key (did you mean images.max_side_px?)"),
        (
            "providers: {ollama: {kind: ollama, base_urll: x}}",
            "providers.ollama.base_urll: unknown key (did you mean base_url?)",
        ),
        (
            "providers: {a: {kind: olama}}",
            "providers.a: kind must be builtin, ollama, openai, litellm or process",
        ),
        (
            "providers: {a: {}}",
            "providers.a: kind must be builtin, ollama, openai, litellm or process",
        ),
        ("providers: {a: {kind: openai}}", "providers.a.base_url: this key is missing"),
        (
            "providers: {a b: {kind: ollama}}",
            "providers.a b: a name is made of letters, digits, dots, dashes and underscores",
        ),
        (
            "providers: {a: {kind: ollama, base_url: 'http://me:pw@h'}}",
            "providers.a.base_url: no name or password in an address; use api_key",
        ),
        (
            "providers: {a: {kind: ollama, base_url: 'ftp://h'}}",
            "providers.a.base_url: an address is due here, such as http://127.0.0.1:11434",
        ),
        (
            "providers: {a: {kind: ollama, base_url: 'http://h/?q=1'}}",
            "providers.a.base_url: an address ends with its path: no ?, no #",
        ),
        (
            "providers: {a: {kind: ollama, base_url: 'http://h:99999'}}",
            "providers.a.base_url: Port out of range",
        ),
        ("data_dir: 5", "data_dir: a path is due here"),
        ("data_dir: ~nobody-here/x", "data_dir: there is no home folder that ~ could stand for"),
        ("default_priority: urgent", "default_priority: high or low is due here"),
        ("capabilities: [text]", "capabilities: should be a valid"),
        ("providers: [a]", "providers: should be a valid"),
        ("server: 5", "server: should be a valid"),
        ("5: 1", "5: Keys should be strings"),
        ("providers:", "providers: empty; write {} for none, or take it out"),
        (
            "capabilities: {text: [x]}",
            "capabilities.text.models.0: a model is named provider/model",
        ),
        ("capabilities: {txt: []}", "capabilities.txt: unknown name, not one of 'vision'"),
        (
            'capabilities: {text: ["ollama/a\\r\\nx: y"]}',
            "capabilities.text.models.0: a name is made of printable characters",
        ),
        (
            'aliases: {a: "ollama/a\\r\\nx: y"}',
            "aliases.a.to: a name is made of printable characters",
        ),
        (
            "capabilities: {text: [ollama/a, ollama/a]}",
            "capabilities.text: a model stands here twice",
        ),
        ("capabilities: {text: [x/y]}", "capabilities.text: x/y: the provider 'x' is unknown"),
        (
            "models: {x/y: {path: /m}}",
            "models.x/y: path and repo are for models of the builtin backend only",
        ),
        (
            "models: {ollama/y: {path: /m}}",
            "models.ollama/y: path and repo are for models of the builtin backend only",
        ),
        (
            "models: {builtin/y: {path: /m, repo: a/b}}",
            "models.builtin/y: path and repo exclude each other",
        ),
        (
            "models: {ollama/y: {capabilities: {sight: true}}}",
            "models.ollama/y.capabilities.sight: unknown name, not one of vision",
        ),
        ("models: {builtin/y: {path: m}}", "models.builtin/y.path: the path must be absolute"),
        (
            "capabilities: {text: [ollama/a]}\nmodels: {ollama/a: {capabilities: {text: false}}}",
            "capabilities.text: ollama/a is bound here, but models.ollama/a.capabilities.text says",
        ),
        (
            "capabilities: {embeddings: [ollama/a, builtin/smollm2-135m]}",
            "capabilities.embeddings: builtin/smollm2-135m: the builtin backend serves chat only",
        ),
        ("providers: {a: {kind: ollama, dialects: [x]}}", "providers.a.dialects"),
        ("aliases: {a: b}", "aliases.a: b is neither auto, nor a capability, nor provider/model"),
        ("aliases: {a: b, b: auto}", "aliases.a: b is an alias itself; aliases do not chain"),
        ("aliases: {a: x/y}", "aliases.a: x/y: the provider 'x' is unknown"),
        ("lanes: {builtin: {}}", "lanes.builtin: the builtin backend queues by itself"),
        ("providers: {auto: {kind: ollama}}", "providers.auto: this name means something else"),
        (
            "providers: {a: {kind: builtin}, b: {kind: builtin, port: 1}}",
            "providers.b: one builtin backend is all there is; a is it",
        ),
        (
            "providers: {b: {kind: builtin, proxy: 'http://p'}}",
            "providers.b.proxy: a process on this machine is reached directly",
        ),
        (
            "providers: {o: {kind: ollama, ca_file: /c}}",
            "providers.o.ca_file: there is no TLS on the way to http://127.0.0.1:11434",
        ),
        ("server: {port: 60316}", "providers.builtin.port: 60316 is server.port already"),
        ("server: {port: 65536}", "server.port: should be less than or equal to 65535"),
        ("server: {port: true}", "server.port: should be a valid integer"),
        ("server: {host: ''}", "server.host: a host name or address is due here"),
        ("local_only: yes", "local_only: should be a valid boolean"),
        ("default_priority: system", "default_priority: high or low is due here"),
        ("timeouts: {idle_s: 0}", "timeouts.idle_s: should be greater than 0"),
        ("timeouts: {idle_s: .inf}", "timeouts.idle_s: should be a valid number"),
        ("builtin: {max_low: 5}", "builtin: max_low and reserve_high are parts of active"),
        ("data_dir: here", "data_dir: the path must be absolute or start with ~"),
        ("- 1", "the file must hold settings by name"),
    ],
)
def test_a_fault_is_one_line_that_names_its_place(
    text: str, line: str, home: dict[str, str], tmp_path: Path
) -> None:
    """What is wrong in a file is told with its path, and with what was probably meant."""
    lines = refused(write(tmp_path, text), home)
    assert len(lines) == 1
    assert lines[0].startswith(line)


def test_all_faults_are_told_at_once_each_with_its_source(
    home: dict[str, str], tmp_path: Path
) -> None:
    """A person sees everything that is wrong, and whether file, variable or option said it."""
    path = write(tmp_path, "log: {levell: info}")
    lines = refused(
        path,
        {**home, "SIGNALBOX_LIMITS__DEPTH": "many", "SIGNALBOX_LOCAL_ONY": "true"},
        {"server": {"port": -1}},
    )
    assert sorted(lines) == [
        "SIGNALBOX_LIMITS__DEPTH: limits.depth: should be a valid integer",
        "SIGNALBOX_LOCAL_ONY: local_ony: unknown key (did you mean local_only?)",
        "command line: server.port: should be greater than or equal to 0",
        "log.levell: unknown key (did you mean level?)",
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: 1\na: 2", ":2: the key 'a' stands here twice"),
        ("a: [", ":2: did not find expected node content"),
    ],
)
def test_text_that_is_no_yaml_is_told_with_its_line(
    text: str, line: str, home: dict[str, str], tmp_path: Path
) -> None:
    """A slip of the pen is found by its line number; no key may stand twice."""
    path = write(tmp_path, text)
    with pytest.raises(SettingsError) as caught:
        load(path, {}, home)
    assert str(caught.value) == f"{path}{line}"


def test_odd_files_are_refused_in_one_line(home: dict[str, str], tmp_path: Path) -> None:
    """Bytes that are no text, and nesting without end, are faults of the file."""
    path = tmp_path / "router.yaml"
    path.write_bytes(b"a: \xff")
    assert refused(path, home) == ["this is not UTF-8 text (byte 3)"]
    path.write_text("[" * 20_000, encoding="utf-8")
    assert len(refused(path, home)) == 1


def test_yaml_means_what_it_says(home: dict[str, str], tmp_path: Path) -> None:
    """`off` is a word and not false, so that a mode of this name can be written without quotes."""
    path = write(tmp_path, "capabilities: {text: {models: [ollama/x], enforce: off}}")
    assert load(path, {}, home).capabilities[Capability.TEXT].enforce == "off"


def test_a_pasted_key_is_refused_and_not_repeated(home: dict[str, str], tmp_path: Path) -> None:
    """A key in the file is refused, and the text that says so does not hold it."""
    canary = "sk-CANARY123"
    path = write(
        tmp_path,
        f"providers: {{a: {{kind: openai, base_url: http://h, api_key: {canary}}}}}\n"
        f"server: {{api_keys: [{canary}], admin_key: {canary}}}",
    )
    with pytest.raises(SettingsError) as caught:
        load(path, {}, home)
    assert len(caught.value.lines) == 3
    assert canary not in str(caught.value)
    assert canary not in repr(caught.value.__cause__)
    assert all("write a reference to it" in line for line in caught.value.lines)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "box.local", "[::]"])  # noqa: S104 refused
@pytest.mark.parametrize("keys", ["", ", api_keys: [{env: A}]", ", admin_key: {env: B}"])
def test_a_bind_that_others_can_reach_needs_both_keys(
    host: str, keys: str, home: dict[str, str], tmp_path: Path
) -> None:
    """An open door is refused at start."""
    path = write(tmp_path, f"server: {{host: '{host}'{keys}}}")
    (line,) = refused(path, home)
    assert "can be reached from other machines" in line
    both = write(
        tmp_path, f"server: {{host: '{host}', api_keys: [{{env: A}}], admin_key: {{env: B}}}}"
    )
    assert load(both, {}, home).server.host == host.strip("[]")


@pytest.mark.parametrize(
    ("host", "bound"), [("localhost", "127.0.0.1"), ("127.0.0.2", "127.0.0.2"), ("[::1]", "::1")]
)
def test_this_machines_own_addresses_need_no_keys(
    host: str, bound: str, home: dict[str, str], tmp_path: Path
) -> None:
    """A bind to the loopback is open to this machine's users."""
    assert load(write(tmp_path, ""), {"server": {"host": host}}, home).server.host == bound


@pytest.mark.parametrize(
    ("platform", "environ", "config", "folder"),
    [
        ("linux", {"HOME": "/h"}, True, "/h/.config/signalbox"),
        ("linux", {"HOME": "/h"}, False, "/h/.local/share/signalbox"),
        ("linux", {"HOME": "/h", "XDG_CONFIG_HOME": "/x"}, True, "/x/signalbox"),
        ("linux", {"HOME": "/h", "XDG_DATA_HOME": "/x"}, False, "/x/signalbox"),
        ("linux", {"HOME": "/h", "XDG_DATA_HOME": "x"}, False, "/h/.local/share/signalbox"),
        ("linux", {"HOME": "relative"}, False, None),
        ("darwin", {"HOME": "/h"}, True, "/h/Library/Application Support/signalbox"),
        (
            "darwin",
            {"HOME": "/h", "XDG_DATA_HOME": "/x"},
            False,
            "/h/Library/Application Support/signalbox",
        ),
    ],
)
def test_each_platform_has_its_folders(
    platform: str, environ: dict[str, str], config: bool, folder: str | None
) -> None:
    """XDG's folders where they are absolute; Application Support on macOS."""
    found = user_folder(platform, environ, config=config)
    assert found == (None if folder is None else Path(folder))


def test_without_a_home_the_data_folder_must_be_named(tmp_path: Path) -> None:
    """One line names the option that helps, and with it all is well."""
    homeless = {"HOME": "nowhere"}
    with pytest.raises(SettingsError, match="--data-dir DIR") as caught:
        load(None, {}, homeless)
    assert len(caught.value.lines) == 1
    assert load(None, {"data_dir": tmp_path}, homeless).data_folder == tmp_path


def test_without_home_the_password_database_is_asked() -> None:
    """A service manager may start the router without HOME."""
    environ = {name: value for name, value in os.environ.items() if name == "PATH"}
    code = "from router.settings import *; print(load(None, {}, environment()).data_folder)"
    told = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        check=True,
        cwd=packaged_file().parents[1],
        env=environ,
        text=True,
    )
    home = pwd.getpwuid(os.getuid()).pw_dir
    assert told.stdout == f"{user_folder(sys.platform, {'HOME': home}, config=False)}\n"


def test_a_variable_may_hold_what_is_no_yaml(home: dict[str, str]) -> None:
    """A value that YAML cannot read is taken as the text that it is."""
    with pytest.raises(SettingsError, match=r"SIGNALBOX_SERVER__HOST: server\.host: a host name"):
        load(None, {}, {**home, "SIGNALBOX_SERVER__HOST": "*"})


def test_a_variable_cannot_reach_into_what_has_no_names(home: dict[str, str]) -> None:
    """The short form of a binding is a list; the text says so."""
    with pytest.raises(SettingsError) as caught:
        load(None, {}, {**home, "SIGNALBOX_CAPABILITIES__TEXT__LOCAL_ONLY": "true"})
    assert str(caught.value) == (
        "SIGNALBOX_CAPABILITIES__TEXT__LOCAL_ONLY: capabilities.text holds no settings by name here"
    )


def test_a_variable_may_open_a_section_that_the_file_leaves_empty(
    home: dict[str, str], tmp_path: Path
) -> None:
    """A provider that only the environment knows is a provider too."""
    path = write(tmp_path, "providers: {}\ncapabilities: {}")
    variables = {
        "SIGNALBOX_PROVIDERS__O__KIND": "ollama",
        "SIGNALBOX_PROVIDERS__O__BASE_URL": "http://h:1",
    }
    assert list(load(path, {}, {**home, **variables}).providers) == ["o"]


def test_the_data_folder_is_the_platforms_unless_named(tmp_path: Path) -> None:
    """XDG_DATA_HOME, then ~/.local/share, and `data_dir` before both."""
    home = {"HOME": str(tmp_path)}
    assert load(None, {}, home).data_folder == tmp_path / ".local/share/signalbox"
    xdg = {**home, "XDG_DATA_HOME": str(tmp_path / "data")}
    assert load(None, {}, xdg).data_folder == tmp_path / "data/signalbox"
    assert load(None, {"data_dir": tmp_path / "mine"}, xdg).data_folder == tmp_path / "mine"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "providers: {c: {kind: process, command: [x]}}\ncapabilities: {text: [c/m]}",
            "capabilities.text: c/m cannot be served",
        ),
        ("downloads: {proxy: 'http://p:1'}", "downloads.proxy: not built yet"),
        ("processes: {memory_budget_mb: 1}", "processes.memory_budget_mb: not built yet"),
    ],
)
def test_a_restriction_that_cannot_be_kept_refuses_the_start(
    text: str, line: str, home: dict[str, str], tmp_path: Path
) -> None:
    """What restricts and is not built yet is named, never ignored."""
    path = write(tmp_path, text)
    (refusal,) = refuse_unbuilt(load(path, {}, home))
    assert refusal.startswith(f"{path}: {line}")


def test_what_is_said_of_a_provider_that_is_not_in_the_file_is_told(
    home: dict[str, str], tmp_path: Path
) -> None:
    """It may be added at run time, and nothing can be said of its models and its lane elsewhere."""
    path = write(tmp_path, "models: {x/y: {}}\nlanes: {x: {}, default: {}, ollama: {}}")
    told = "the file has no provider 'x' (it has: builtin, ollama); this is for one that is added"
    assert load(path, {}, home).notices == (
        f"models.x/y: {told} under that name",
        f"lanes.x: {told} under that name",
    )


def test_a_permission_that_has_no_effect_yet_is_told(home: dict[str, str], tmp_path: Path) -> None:
    """What only permits or tunes is accepted, with a notice."""
    path = write(
        tmp_path,
        "providers: {builtin: {kind: builtin}, p: {kind: process, command: [x]}}\n"
        "models: {builtin/o: {repo: a/b@main}}\n"
        "aliases: {a: {to: auto, priority: high}, b: auto}\n"
        "database_url: sqlite://",
    )
    settings = load(path, {}, home)
    assert refuse_unbuilt(settings) == []
    assert [notice.partition(":")[0] for notice in settings.notices] == [
        "providers.p",
        "database_url",
        "models.builtin/o.repo",
    ]


def test_a_key_that_is_named_but_missing_keeps_the_door_shut(
    home: dict[str, str], tmp_path: Path
) -> None:
    """Callers' keys are read at start, and one that is not there refuses it."""
    two = "{env: TWO, priority: high}"
    keys = f"api_keys: [{{env: ONE}}, {two}], admin_key: {{env: ADMIN}}"
    path = write(tmp_path, f"server: {{{keys}}}")
    settings = load(path, {}, home)
    read = access_keys(settings, {"ONE": "one", "TWO": "two", "ADMIN": "a"})
    assert (read.api_keys, read.admin_key) == ({"one": None, "two": Priority.HIGH}, "a")
    assert "one" not in repr(read)
    with pytest.raises(SettingsError) as caught:
        access_keys(settings, {"ONE": "1", "TWO": "a b"})
    assert [line.removeprefix(f"{path}: ") for line in caught.value.lines] == [
        "server.api_keys: {env: TWO}: this is not a key (blanks or odd characters in it)",
        "server.admin_key: {env: ADMIN} names a key that is not there",
    ]


def test_a_child_sees_no_key_of_ours(home: dict[str, str], tmp_path: Path) -> None:
    """What a key reference names, and our own variables, are not in a child's environment."""
    path = write(
        tmp_path,
        "providers: {o: {kind: openai, base_url: http://h, api_key: {env: MY_KEY}}}\n"
        "server: {admin_key: {env: ADMIN}}\ndownloads: {token: {env: HF_TOKEN}}",
    )
    environ = {"PATH": "/bin", "MY_KEY": "k", "ADMIN": "a", "HF_TOKEN": "t", "SIGNALBOX_X": "y"}
    assert child_environment(load(path, {}, home), environ) == {"PATH": "/bin"}


@pytest.mark.parametrize(
    ("provider", "local"),
    [
        ("{kind: builtin}", True),
        ("{kind: ollama}", True),
        ("{kind: ollama, base_url: 'http://[::1]:1'}", True),
        ("{kind: openai, base_url: 'http://localhost:1/v1'}", True),
        ("{kind: openai, base_url: 'http://127.0.0.1.evil.com/v1'}", False),
        ("{kind: openai, base_url: 'https://api.openai.com/v1'}", False),
        ("{kind: openai, base_url: 'http://192.168.1.2/v1', locality: local}", True),
        ("{kind: ollama, locality: remote}", False),
        ("{kind: litellm, litellm_provider: x}", False),
        ("{kind: process, command: [x]}", True),
    ],
)
def test_a_provider_is_local_on_the_loopback_or_where_its_owner_says_so(
    provider: str, local: bool, home: dict[str, str], tmp_path: Path
) -> None:
    """Locality follows the address, and `locality` overrides it."""
    settings = load(write(tmp_path, f"providers: {{p: {provider}}}"), {}, home)
    assert settings.providers["p"].is_local is local


def test_short_forms_are_read_as_the_long_ones(home: dict[str, str], tmp_path: Path) -> None:
    """A list of models and a bare alias are the common cases of their objects."""
    path = write(tmp_path, "capabilities: {text: [ollama/a]}\naliases: {x: auto, y: {to: text}}")
    settings = load(path, {}, home)
    assert not settings.capabilities[Capability.TEXT].allow_remote_fallback
    assert {name: alias.to for name, alias in settings.aliases.items()} == {
        "x": "auto",
        "y": "text",
    }


def test_a_lane_is_the_providers_own_else_the_default(home: dict[str, str], tmp_path: Path) -> None:
    """Lanes are named by provider; `default` holds for the others."""
    path = write(tmp_path, "lanes: {ollama: {concurrency: 2}, default: {concurrency: 3}}")
    settings = load(path, {}, home)
    assert settings.lane("ollama").concurrency == 2
    assert settings.lane("other").concurrency == 3
