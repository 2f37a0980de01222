import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest

from router.cli.call import Call
from router.cli.main import main, parser


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("serve", {"command": "serve", "host": None, "port": None, "config": None}),
        ("serve --port 1 --host h", {"port": 1, "host": "h"}),
        ("--config a serve", {"config": Path("a")}),
        ("serve --config a", {"config": Path("a")}),
        ("--config a serve --config b", {"config": Path("b")}),
        ("--json capabilities", {"json": True, "action": "list", "wait": False}),
        ("capabilities assign text a/b --json", {"json": True, "models": ["a/b"]}),
        ("capabilities assign text a/b c/d", {"models": ["a/b", "c/d"], "wait": False}),
        ("capabilities reset text --wait", {"action": "reset", "wait": True}),
        ("models", {"action": "list"}),
        ("providers --json", {"action": "list", "json": True}),
        ("requests", {"action": "list"}),
        ("models pull x --data-dir d", {"action": "pull", "model": "x", "data_dir": Path("d")}),
        ("ask hello", {"prompt": "hello", "model": "auto", "image": []}),
        ("ask hello --image a --image b", {"image": [Path("a"), Path("b")]}),
        ("explain --body f", {"body": Path("f"), "prompt": None}),
        ("status --url http://h --api-key k", {"url": "http://h", "api_key": "k"}),
    ],
)
def test_what_is_typed_is_understood(typed: str, expected: dict[str, object]) -> None:
    """Options stand before or after the command, and lists are the default action."""
    options = vars(parser().parse_args(typed.split()))
    assert {name: options[name] for name in expected} == expected


@pytest.mark.parametrize(
    "typed",
    ["", "dance", "serve --port x", "capabilities assign text", "explain", "explain a --body f",
     "ask", "models pull", "serve --prot 1", "capabilities dance"],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(typed: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong command line ends with exit code 2 and says how it goes."""
    with pytest.raises(SystemExit) as ended:
        main(typed.split())
    assert ended.value.code == 2
    assert "usage: signalbox" in capsys.readouterr().err


def test_the_exit_codes_are_documented(capsys: pytest.CaptureFixture[str]) -> None:
    """A script's author finds them in --help."""
    with pytest.raises(SystemExit):
        main(["--help"])
    told = capsys.readouterr().out
    assert all(f"  {code}  " in told for code in (0, 1, 2, 3))


def test_a_wrong_configuration_ends_with_exit_code_two(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The faults are printed as they are, each with its place."""
    config = tmp_path / "router.yaml"
    config.write_text("server: {prt: 1}", encoding="utf-8")
    assert main(["status", "--config", str(config)]) == 2
    fault = f"{config}: server.prt: unknown key (did you mean port?)\n"
    assert capsys.readouterr().err.startswith(fault + "signalbox: ")
    # There is no other router to be reached.
    assert main(["serve", "--config", str(config)]) == 2
    assert capsys.readouterr().err == fault


@pytest.mark.parametrize(
    ("options", "text", "url"),
    [
        ({}, "", "http://127.0.0.1:60315"),
        ({}, "server: {port: 1}", "http://127.0.0.1:1"),
        ({}, "server: {host: '::1'}", "http://[::1]:60315"),
        (
            {},
            "server: {host: 0.0.0.0, api_keys: [{env: A}], admin_key: {env: B}}",
            "http://127.0.0.1:60315",
        ),
        ({"url": "http://h:1/v1/"}, "", "http://h:1"),
        ({"port": 7}, "", "http://127.0.0.1:7"),
        ({}, "server: {port: 1}\nsrver: {}", "http://127.0.0.1:1"),
        ({}, "srver: {}", "http://127.0.0.1:60315"),
        ({"port": 7}, "server: {port: 1}\nlanes: 5", "http://127.0.0.1:7"),
    ],
)
def test_the_routers_address_is_the_configured_one(
    options: dict[str, object], text: str, url: str, tmp_path: Path
) -> None:
    """Without --url the settings say where the router is, as seen from this machine."""
    config = tmp_path / "router.yaml"
    config.write_text(text, encoding="utf-8")
    given = {"config": config, "data_dir": None, "url": None, "api_key": None, **options}
    assert Call(Namespace(**given), {"HOME": str(tmp_path)}).url == url


@pytest.mark.parametrize("fault", ["", "srver: {}"])
@pytest.mark.parametrize(
    ("reference", "key"),
    [("{env: ADMIN}", "secret"), ("{env: NONE}", None), ("{file: /nowhere}", None)],
)
def test_this_machines_admin_key_opens_its_own_router(
    reference: str, key: str | None, fault: str, tmp_path: Path
) -> None:
    """Who may read the router's key need not type it, faults elsewhere in the file or none."""
    config = tmp_path / "router.yaml"
    config.write_text(f"server: {{admin_key: {reference}}}\n{fault}", encoding="utf-8")
    options = Namespace(config=config, data_dir=None, url=None, api_key=None)
    assert Call(options, {"HOME": str(tmp_path), "ADMIN": "secret"}).api_key == key


def test_a_relative_data_folder_is_the_one_beside_us(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is typed is meant from where it is typed."""
    monkeypatch.chdir(tmp_path)
    options = Namespace(config=None, data_dir=Path("mine"), url=None, api_key=None)
    assert Call(options, {"HOME": str(tmp_path)}).settings.data_folder == tmp_path / "mine"


def test_reading_a_command_line_loads_no_http_client_and_no_tables() -> None:
    """`serve` must be up in half a second: what it does not need stays on disk."""
    code = (
        "import sys; from router.cli.main import parser; parser().parse_args(['serve']);"
        "print(sorted({'httpx2', 'rich', 'fastapi', 'sqlmodel', 'aiohttp'} & set(sys.modules)))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert told.stdout == "[]\n"


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    """`signalbox --help | head -1` ends without a traceback."""
    code = (
        "import sys; from router.cli import main as m\n"
        "def stop(call): sys.stdout.write('x' * 100_000); sys.stdout.flush()\n"
        "m._run = stop; sys.exit(m.main(['status']))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("options", "code", "text"),
    [
        (["--url", "http://[::1"], 1, "is not an address"),
        (["--api-key", "\u00e9"], 2, "characters in it that no key can have"),
        (["--api-key", "sk-secret\n"], 2, "characters in it that no key can have"),
    ],
)
def test_what_cannot_be_sent_is_said_in_one_line(
    options: list[str], code: int, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """An address or a key of odd characters ends in a sentence, never in a traceback."""
    assert main(["--url", "http://127.0.0.1:9", *options, "status"]) == code
    said = capsys.readouterr().err
    assert text in said
    assert "secret" not in said
