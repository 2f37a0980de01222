"""A keyring that is absent, locked, slow or broken hangs nothing, and says what to do."""

import time
from pathlib import Path
from typing import Any

import pytest
from keyring.backend import KeyringBackend

from router.keys import KEYRING_SERVICE, KeyReference, KeyReferenceError, resolve
from tests.harness.asking import CHAT, JSON_TYPE, ask
from tests.harness.keyrings import OpenKeyring, SlowKeyring, absent, broken, locked, using
from tests.harness.running_router import openai_provider, running_router
from tests.harness.scripted_upstream import ScriptedUpstream

REFERENCE = KeyReference.parse({"keyring": "cloud"})


def test_row_131_a_key_is_read_from_the_keyring() -> None:
    """It is filed under our name; one that is not there is none."""
    backend = OpenKeyring()
    with using(backend):
        assert resolve(REFERENCE, {}) is None
        backend.set_password(KEYRING_SERVICE, "cloud", " sk-1\n")
        assert resolve(REFERENCE, {}) == "sk-1"


@pytest.mark.parametrize(
    ("backend", "text"),
    [
        (absent(), "this machine has no keyring; use {env: NAME} or {file: PATH}"),
        (locked(), "the keyring is locked; unlock it"),
        (broken(), "the keyring failed: ConnectionError"),
    ],
    ids=["none", "locked", "broken"],
)
def test_row_131_a_keyring_that_cannot_be_read_says_why(backend: KeyringBackend, text: str) -> None:
    """The text names the reference and what to do, and repeats nothing of what went wrong."""
    with using(backend), pytest.raises(KeyReferenceError) as caught:
        resolve(REFERENCE, {})
    assert str(caught.value).startswith("{keyring: cloud}: ")
    assert text in str(caught.value)
    assert "CANARY" not in str(caught.value)


def test_row_131_a_keyring_that_waits_for_a_person_holds_nobody_up() -> None:
    """When the deadline is over the start goes on, and the text says so."""
    backend = SlowKeyring()
    with using(backend):
        since = time.monotonic()
        try:
            with pytest.raises(KeyReferenceError, match=r"did not answer within 0\.05 s"):
                resolve(REFERENCE, {}, keyring_s=0.05)
        finally:
            backend.gate.set()
    assert time.monotonic() - since < 5


async def test_row_131_a_provider_gets_its_key_from_the_keyring(tmp_path: Path) -> None:
    """What is kept there is what the provider is shown."""
    backend = OpenKeyring()
    backend.set_password(KEYRING_SERVICE, "cloud", "sk-2")
    async with ScriptedUpstream() as fm:
        provider = openai_provider(fm.url, api_key={"keyring": "cloud"})
        tree: dict[str, Any] = {"providers": {"fm": provider}, "capabilities": {"text": ["fm/m"]}}
        with using(backend):
            async with running_router(tmp_path, **tree) as signalbox:
                body = b'{"model":"text","messages":[]}'
                told = await ask(signalbox.port, JSON_TYPE, method="POST", path=CHAT, body=body)
                assert told.status == 200
    assert fm.seen[0].headers["authorization"] == "Bearer sk-2"


async def test_row_131_a_provider_without_its_key_is_left_out_with_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The router starts without it, and its log tells why."""
    tree: dict[str, Any] = {
        "providers": {"fm": openai_provider("http://127.0.0.1:9/v1", api_key={"keyring": "cloud"})},
        "capabilities": {"text": ["fm/m"]},
    }
    with using(locked()):
        async with running_router(tmp_path, **tree) as signalbox:
            assert (await ask(signalbox.port, path="/health")).status == 200
    assert "provider fm is left out: {keyring: cloud}: the keyring is locked" in caplog.text
