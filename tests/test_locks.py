import re
import subprocess
import sysconfig
from pathlib import Path

import pytest

from router.litellm_package import STOLE_KEYS
from tests.harness.real_providers import made

ROOT = Path(__file__).parents[1]
LOCKS = sorted((ROOT / "requirements").glob("*.txt"))
PINNED = re.compile(
    r"[\w.-]+(\[[\w,-]+\])?==[^\s;]+"  # name, extras, version
    r"( ; .+?)?"  # for which platforms
    r"( +--hash=sha256:[0-9a-f]{64})+"
)
PIN = re.compile(r"^([\w.-]+)(?:\[[\w,-]+\])?==([^\s;]+)", re.MULTILINE)
# A .pth file runs at every start of Python: each one here is known.
PTH_FILES = {
    "a1_coverage.pth",  # coverage: follows child processes
    "distutils-precedence.pth",  # setuptools: its own distutils
    "_signalbox.pth",  # the checkout's path
    "_virtualenv.pth",  # virtualenv, where Python has no venv module
}
# The names of package indexes, in parts so that this file holds none of them.
INDEX_HOSTS = ("pypi" + ".org", "files.python" + "hosted", "npm" + "js.org", "--index" + "-url")


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_every_requirement_has_one_version_and_its_hashes(lock: Path) -> None:
    """A lock names exact versions with hashes, and nothing of where they come from."""
    text = lock.read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    assert lines
    for line in lines:
        assert PINNED.fullmatch(line.strip()), line


def test_every_lock_is_made_from_a_list() -> None:
    """A lock without its .in file could not be made again."""
    lists = {path.stem for path in (ROOT / "requirements").glob("*.in")}
    assert {path.stem for path in LOCKS} == lists


def test_no_tracked_file_names_a_package_index() -> None:
    """Where packages come from is the machine's business, not the project's."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], capture_output=True, check=True, cwd=ROOT, text=True
    )
    files = [ROOT / name for name in listed.stdout.split("\0") if name]
    assert files
    offences = [
        (str(path.relative_to(ROOT)), host)
        for path in files
        if path.is_file()
        for host in INDEX_HOSTS
        if host in path.read_text(encoding="utf-8", errors="replace")
    ]
    assert offences == []


def test_nothing_unknown_runs_at_every_start_of_python() -> None:
    """Site-packages holds no .pth file that nobody knows: that is how packages have stolen keys."""
    folder = Path(sysconfig.get_paths()["purelib"])
    assert {path.name for path in folder.glob("*.pth")} <= PTH_FILES


@pytest.mark.real_provider
def test_nothing_unknown_runs_at_every_start_where_litellm_is() -> None:
    """The environment of the lock cloud holds what the lock says, and no .pth file at all."""
    (folder,) = Path(made("litellm")).glob("lib/python*/site-packages")
    assert [path.name for path in folder.glob("*.pth")] == []
    pinned = dict(PIN.findall((ROOT / "requirements/cloud.txt").read_text(encoding="utf-8")))
    infos = [path.name.removesuffix(".dist-info").split("-") for path in folder.glob("*.dist-info")]
    there = {re.sub("[_.]", "-", name.lower()): version for name, version in infos}
    assert there["litellm"] == pinned["litellm"]
    assert there.items() <= pinned.items()


def test_no_lock_holds_a_litellm_that_must_not_be_used() -> None:
    """Neither one that stole keys nor one of the time before, and no lock but cloud holds any."""
    held = {
        lock.stem: version
        for lock in LOCKS
        for name, version in PIN.findall(lock.read_text(encoding="utf-8"))
        if name == "litellm"
    }
    assert set(held) == {"cloud"}
    assert held["cloud"] not in STOLE_KEYS
    assert [int(part) for part in held["cloud"].split(".")] >= [1, 100]
