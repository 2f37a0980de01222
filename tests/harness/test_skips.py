import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CASES = """
import pytest

def test_unlisted(): pytest.skip("too hard")

@pytest.mark.skip(reason="later")
def test_marked(): pass

def test_listed(): pytest.skip("MLX has no wheels for this machine")

@pytest.mark.xfail
def test_expected(): assert False

def test_fine(): pass
"""
MODULE = 'import pytest\npytest.importorskip("no_such_module")\ndef test_a(): pass\n'


@pytest.mark.parametrize("workers", [0, 2])
def test_only_a_listed_reason_may_skip(workers: int, tmp_path: Path) -> None:
    """A skip that nobody listed is a failure, in a test, by a mark and in a whole module."""
    (tmp_path / "test_cases.py").write_text(CASES, encoding="utf-8")
    (tmp_path / "test_module.py").write_text(MODULE, encoding="utf-8")
    options = ["-p", "tests.harness.skips", "-p", "no:cacheprovider", "-c", "/dev/null", "-rA"]
    options += ["--numprocesses", str(workers)]
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            *options,
            "--continue-on-collection-errors",
            f"--rootdir={tmp_path}",
            str(tmp_path),
        ],
        capture_output=True,
        check=False,
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "COLUMNS": "200"},
        text=True,
    )
    assert run.returncode == 1
    for line in (
        "ERROR test_module.py",
        "FAILED test_cases.py::test_unlisted - skipped for a reason that tests/harness/skips.py",
        "ERROR test_cases.py::test_marked - skipped for a reason that tests/harness/skips.py",
        "SKIPPED [1] test_cases.py:9: MLX has no wheels for this machine",
        "XFAIL test_cases.py::test_expected",
        "PASSED test_cases.py::test_fine",
    ):
        assert line in run.stdout
