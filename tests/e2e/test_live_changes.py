"""A router process whose providers and settings change while it runs, as a person changes them."""

import asyncio
import json
from pathlib import Path

from tests.harness.one_provider import DELTA, DONE, STOP, streams
from tests.harness.scripted_upstream import Conversation, ScriptedUpstream
from tests.harness.served import PROGRAM, Served, environment, fake_builtin, served


async def _lists(conversation: Conversation) -> None:
    if conversation.target == "/v1/models":
        await conversation.answer(b'{"object":"list","data":[{"id":"m"}]}')
    else:
        await streams(DELTA, STOP, DONE)(conversation)


async def _signalbox(folder: Path, router: Served, *typed: str) -> tuple[int, str]:
    """Run the command line against the router; return its exit code and all that it said."""
    process = await asyncio.create_subprocess_exec(
        *PROGRAM, *typed, "--url", router.url,
        cwd=Path(__file__).parents[2],
        env={**environment(folder), "A_KEY": "sk-CANARY"},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    said, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, said.decode()


async def test_a_provider_is_added_tried_used_and_removed_from_the_command_line(
    tmp_path: Path,
) -> None:
    """Four commands, no restart, and the key is said nowhere."""
    async with ScriptedUpstream(_lists) as fm, served(tmp_path) as router:
        said = []
        for typed, expected in (
            (("providers", "add", "fm", fm.url, "--key-env", "A_KEY"), 0),
            (("providers", "test", "fm"), 0),
            (("capabilities", "assign", "text", "fm/m"), 0),
            (("ask", "hello"), 0),
            (("providers", "edit", "fm", "--base-url", "http://127.0.0.1:9/v1"), 1),
            (("providers", "edit", "fm", "--base-url", "http://127.0.0.1:9/v1", "--no-key"), 0),
            (("providers", "test", "fm"), 1),
            (("providers", "rm", "fm"), 0),
        ):
            code, text = await _signalbox(tmp_path, router, *typed)
            assert code == expected, text
            said.append(text)
        assert "fm answers and lists 1 model." in said[1]
        assert "Is it running?" in said[6]
        assert "Still named, without effect, by: text." in said[7]
        assert "sk-CANARY" not in "".join(said) + router.log()
        asked = [each.headers.get("authorization") for each in fm.seen]
        assert asked == ["Bearer sk-CANARY", "Bearer sk-CANARY"]


async def test_the_builtin_backend_is_replaced_when_its_settings_change(tmp_path: Path) -> None:
    """The process gets its options at its start: there is a new one, and no restart of ours."""
    settings = fake_builtin(tmp_path)
    async with served(tmp_path, **settings) as router:
        await router.until("ready")
        before = await router.backend()
        config = tmp_path / "router.yaml"
        tree = json.loads(config.read_text(encoding="utf-8"))
        config.write_text(json.dumps({**tree, "builtin": {"queue": 7}}), encoding="utf-8")
        # Nobody says so: the router looks by itself.
        async with asyncio.timeout(10):
            while (after := await router.backend())["generation"] == before["generation"]:
                await asyncio.sleep(0.01)
        await router.until("ready")
        assert after["generation"] == before["generation"] + 1
        # Nothing else that changes has it replaced again.
        config.write_text(
            json.dumps({**tree, "builtin": {"queue": 7}, "local_only": True}), "utf-8"
        )
        assert (await router.client.post("/admin/reload")).status_code == 200
        assert (await router.backend())["generation"] == after["generation"]
