import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import httpx2
import psutil
import pytest

pytest.importorskip("llguidance", reason="MLX has no wheels for this machine")

from backends.mlx_backend.__main__ import _listen, parse_arguments
from tests.backends.mlx_backend.child import TOKEN, Child, backend

pytestmark = pytest.mark.mlx

CHAT = "/v1/chat/completions"
COUNT = {
    "model": "tiny",
    "temperature": 0,
    "stream": True,
    "messages": [{"role": "user", "content": "Please count."}],
}


def client(child: Child, token: str | None = TOKEN) -> httpx2.Client:
    """Return a client of a child."""
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    return httpx2.Client(base_url=child.url, headers=headers, trust_env=False, timeout=30)


@pytest.mark.parametrize("inherited", [False, True])
def test_small_answers_do_not_wait_for_others(*, inherited: bool) -> None:
    """What is accepted sends at once, however the process came by its socket."""
    given = []
    if inherited:
        with socket.create_server(("127.0.0.1", 0)) as parents:
            given = ["--socket-fd", str(os.dup(parents.fileno()))]
    with (
        _listen(parse_arguments(["--port", "0", *given])) as listening,
        socket.create_connection(listening.getsockname()),
        listening.accept()[0] as accepted,
    ):
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_life(tiny_vision_model: Path, tmp_path: Path) -> None:
    """It tells its start, serves the inherited socket, and a signal ends streams and process."""
    arguments = ["--models-dir", str(tmp_path), f"--model-folder=tiny={tiny_vision_model}"]
    with backend(*arguments, "--model", "tiny", log=tmp_path / "log") as child:
        told = [name for line in child.lines for name in line if not name.startswith("model_")]
        assert told == ["progress"] * 3 + ["ready"]
        with client(child) as http, http.stream("POST", CHAT, json=COUNT) as answer:
            lines = answer.iter_lines()
            assert next(lines).startswith("data: ")
            health = http.get("/health").json()
            assert (health["state"], health["model"], health["loads"]) == ("loaded", "tiny", 1)
            # Nothing but the socket it was given, and our own connections to it.
            remote = {
                connection.raddr.ip
                for connection in psutil.Process(child.process.pid).net_connections()
                if connection.raddr
            }
            assert remote == {"127.0.0.1"}
            assert child.terminate() == 0
            last = [line for line in lines if line][-1]
        error = json.loads(last.removeprefix("data: "))["error"]
        assert error["code"] == "shutting_down"
        assert "Traceback" not in child.log.read_text()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", child.port), timeout=5)


def test_without_a_token_it_is_open_to_this_machine_only(
    tiny_vision_model: Path, tmp_path: Path
) -> None:
    """An open backend answers its own machine, and nothing that a web page can make it answer."""
    arguments = ["--models-dir", str(tmp_path), f"--model-folder=tiny={tiny_vision_model}"]
    arguments += ["--idle-unload-s", "0.05"]
    with backend(*arguments, log=tmp_path / "log", token=None) as child, client(child) as http:
        refused = {
            "host_not_allowed": {"host": "evil.example:60316"},
            "origin_not_allowed": {"origin": "https://evil.example"},
        }
        for code, headers in refused.items():
            answer = http.get("/health", headers=headers)
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, code)
        answer = http.post(CHAT, json={**COUNT, "stream": False, "max_tokens": 4})
        assert answer.status_code == 200
        # The model goes when its idle time is over, without anybody asking for anything.
        while (health := http.get("/health").json())["state"] != "idle":
            assert health["loads"] == 1
        assert health["memory_mb"] < 0.1


def test_nothing_is_asked_of_a_hub(tiny_vision_model: Path, tmp_path: Path) -> None:
    """A file that is missing in a model's folder is not looked for on the network."""
    folder = shutil.copytree(tiny_vision_model, tmp_path / "lacking")
    for name in ("processor_config.json", "video_preprocessor_config.json"):
        (folder / name).unlink()
    arguments = ["--models-dir", str(tmp_path), f"--model-folder=tiny={folder}"]
    with socket.create_server(("127.0.0.1", 0)) as hub:
        hub.setblocking(False)
        environment = {"HF_ENDPOINT": f"http://127.0.0.1:{hub.getsockname()[1]}"}
        with (
            backend(*arguments, log=tmp_path / "log", environment=environment) as child,
            client(child) as http,
        ):
            http.post(CHAT, json={**COUNT, "stream": False, "max_tokens": 4})
        with pytest.raises(BlockingIOError):
            hub.accept()


def test_what_the_environment_is_when_the_libraries_are_imported(tmp_path: Path) -> None:
    """The libraries find every switch that keeps them offline, and nobody finds the token."""
    code = (
        "import json, os, backends.mlx_backend.__main__ as process;"
        "process.run = lambda _options, token, _parent: print(json.dumps([token, {**os.environ}]));"
        "process.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "--models-dir", str(tmp_path)],
        env={**os.environ, "SIGNALBOX_BACKEND_TOKEN": TOKEN},
        capture_output=True,
        check=True,
    )
    token, environment = json.loads(done.stdout)
    assert token == TOKEN
    assert TOKEN not in environment.values()
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY"):
        assert environment[name] == "1"


def failure(*arguments: str, tmp_path: Path, environment: dict[str, str] | None = None) -> str:
    """Start a backend that cannot serve; returns what it tells its parent."""
    child = Child(
        "--models-dir", str(tmp_path), *arguments, log=tmp_path / "log", environment=environment
    )
    try:
        line = child.wait_ready()
        assert list(line) == ["failed"]
        assert child.process.wait(20) == 1
        return str(line["failed"])
    finally:
        child.close()


def test_a_model_to_start_with_that_is_not_there(tmp_path: Path) -> None:
    """A model that cannot be found is said at the start."""
    assert "nothing" in failure("--model", "nothing", tmp_path=tmp_path)


def test_a_python_without_mlx(tmp_path: Path) -> None:
    """Where MLX cannot be imported, that is what the parent hears."""
    (tmp_path / "mlx").mkdir()
    (tmp_path / "mlx" / "__init__.py").write_text("raise ImportError('no such wheel')")
    environment = {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(Path.cwd())])}
    text = failure(tmp_path=tmp_path, environment=environment)
    assert text == "MLX is not installed for this Python: no such wheel"


def test_importing_the_application_does_not_import_mlx() -> None:
    """The HTTP side loads anywhere; only the engine needs MLX."""
    code = (
        "import sys, backends.mlx_backend.app, backends.mlx_backend.__main__;"
        "sys.exit(any(name.split('.')[0] in {'mlx', 'mlx_vlm', 'transformers', 'PIL'}"
        " for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--host", "0.0.0.0"], "SIGNALBOX_BACKEND_TOKEN"),  # noqa: S104  that is the point
        (["--port", "{taken}"], "cannot listen"),
    ],
)
def test_where_it_does_not_serve(tmp_path: Path, arguments: list[str], says: str) -> None:
    """It serves no other machine without a token, and no port that is taken."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        given = [text.format(taken=port) for text in arguments]
        environment = {k: v for k, v in os.environ.items() if k != "SIGNALBOX_BACKEND_TOKEN"}
        done = subprocess.run(
            [sys.executable, "-m", "backends.mlx_backend", "--models-dir", str(tmp_path), *given],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
    assert done.returncode == 1
    assert says in done.stderr
    assert "Traceback" not in done.stderr
