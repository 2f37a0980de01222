import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.harness.served import free_port
from tests.router.cli.conftest import FakeRouter, fake_router


@dataclass
class Home:
    """A configuration with one provider, and the command line called with it."""

    folder: Path
    config: Path
    port: int

    def command(self, *arguments: str) -> list[str]:
        """Return the command line of a call."""
        return [sys.executable, "-m", "router.cli.main", "--config", str(self.config), *arguments]

    @property
    def environ(self) -> dict[str, str]:
        """What a call sees of the environment."""
        return {"HOME": str(self.folder), "PATH": os.environ["PATH"]}

    def call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run one command to its end."""
        return subprocess.run(
            self.command(*arguments), capture_output=True, check=False, env=self.environ, text=True
        )

    @contextmanager
    def serving(self) -> Iterator[list[str]]:
        """Run `signalbox serve`; yield what it said at its start, and check how it ends."""
        with subprocess.Popen(
            self.command("serve"),
            env=self.environ,
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            said: list[str] = []
            while not (said and said[-1].startswith("  signalbox capabilities ")):
                line = process.stdout.readline()
                assert line, process.stderr and process.stderr.read()
                said.append(line.rstrip("\n"))
            try:
                yield said
            finally:
                process.send_signal(signal.SIGTERM)
                _, log = process.communicate()
        assert process.returncode == 0, log


@pytest.fixture
def provider() -> Iterator[FakeRouter]:
    """Serve a provider that speaks OpenAI's protocol, scripted."""
    with fake_router() as fake:
        yield fake


@pytest.fixture
def home(tmp_path: Path, provider: FakeRouter) -> Home:
    """Return a home whose configuration binds text to the scripted provider."""
    port = free_port()
    config = tmp_path / "router.yaml"
    config.write_text(
        f"server: {{port: {port}}}\n"
        f"providers: {{p: {{kind: openai, base_url: {provider.url}/v1}}}}\n"
        "capabilities: {text: [p/m]}\n",
        encoding="utf-8",
    )
    return Home(tmp_path, config, port)


def test_a_question_finds_its_way_to_the_provider_and_back(
    home: Home, provider: FakeRouter
) -> None:
    """Serve, look, ask, assign, explain: what a person does on the first day."""
    chunks = [
        {"choices": [{"index": 0, "delta": {"content": "Hello."}}]},
        {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
    ]
    stream = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"
    provider.says_raw("POST /v1/chat/completions", stream.encode(), kind="text/event-stream")
    with home.serving() as said:
        assert said[0] == f"Signalbox answers at http://127.0.0.1:{home.port}/v1"
        assert said[1].split() == ["text", "p/m", "(external)"]
        assert "p/m" in home.call("status").stdout

        asked = home.call("ask", "Hi")
        assert (asked.stdout, asked.stderr, asked.returncode) == ("Hello.\n", "", 0)
        # Its list was asked for as well, since somebody came to look.
        question = next(each for each in provider.seen if each.method == "POST")
        assert question.body["messages"] == [{"role": "user", "content": "Hi"}]
        assert question.body["model"] == "m"

        row = json.loads(home.call("capabilities", "unassign", "text", "--json").stdout)
        assert (row["models"], row["source"]) == ([], "stored")
        refused = home.call("ask", "Hi")
        assert refused.returncode == 1
        assert "(capability_not_assigned)" in refused.stderr
        home.call("capabilities", "reset", "text")
        decision = json.loads(home.call("explain", "Hi", "--json").stdout)
        assert [route["model"] for route in decision["routes"]] == ["m"]
        assert json.loads(home.call("models", "--json").stdout)["names"]
    assert home.call("status").returncode == 3


def test_a_second_router_leaves_the_first_alone(home: Home) -> None:
    """One data folder has one router: the second ends with a text that says so."""
    with home.serving():
        second = home.call("serve", "--port", str(free_port()))
        assert second.returncode == 1
        assert "Another Signalbox is running" in second.stderr
        assert home.call("status").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "text", "code", "told"),
    [
        (["--host", "0.0.0.0"], "", 2, "can be reached from other machines"),  # noqa: S104 refused
        ([], "server: {prt: 1}", 2, "server.prt: unknown key (did you mean port?)"),
        ([], "downloads: {proxy: 'http://p'}", 2, "downloads.proxy: not built yet"),
        (
            [],
            "providers: {o: {kind: openai, base_url: 'https://a/v1', ca_file: /none.pem}}",
            2,
            "providers.o.ca_file: /none.pem cannot be read: No such file or directory",
        ),
        ([], "server: {admin_key: {env: NONE}}", 2, "names a key that is not there"),
    ],
)
def test_what_cannot_be_kept_is_not_started(
    arguments: list[str], text: str, code: int, told: str, home: Home
) -> None:
    """An open door, a slip and a restriction that is not built end before anything listens."""
    home.config.write_text(text, encoding="utf-8")
    ended = home.call("serve", *arguments)
    assert ended.returncode == code
    assert told in ended.stderr
    assert "Traceback" not in ended.stderr
