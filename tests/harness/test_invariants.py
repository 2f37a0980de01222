import pytest

pytest_plugins = ["pytester"]

BODY = """
import asyncio, os, subprocess, threading

kept = []

def test_descriptor():
    os.pipe()

def test_thread():
    threading.Thread(target=threading.Event().wait, daemon=True, name="lost").start()

def test_child():
    kept.append(subprocess.Popen(["sleep", "60"]))

async def test_task():
    kept.append(asyncio.create_task(asyncio.Event().wait()))

def test_tidy():
    for fd in os.pipe():
        os.close(fd)

async def test_tidy_async():
    await asyncio.to_thread(os.getpid)

def teardown_module():
    kept[0].kill()
    kept[0].wait()
"""


@pytest.mark.parametrize("workers", [0, 1])
def test_each_leak_fails_its_test_and_is_named(
    workers: int,
    pytester: pytest.Pytester,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A test that leaves something behind fails and names it; tidy ones, sync or not, pass."""
    monkeypatch.setenv("PYTHONPATH", str(request.config.rootpath))
    pytester.makeconftest("pytest_plugins = ['tests.harness.invariants']")
    options = "asyncio_mode = 'auto'\nasyncio_default_fixture_loop_scope = 'function'\n"
    pytester.makepyprojecttoml(f"[tool.pytest.ini_options]\n{options}")
    pytester.makepyfile(BODY)
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", "--numprocesses", str(workers))
    result.assert_outcomes(passed=6, errors=4)
    for what in ("descriptor", "thread lost", "child", "<Task"):
        result.stdout.fnmatch_lines([f"left behind: {what.replace('[', '?')}*"])
