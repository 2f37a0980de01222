import io
import sys

import pytest

from router.cli.main import main
from tests.router.cli.conftest import FakeRouter, Signalbox

PATH = "/admin/providers"
ROW = {
    "name": "mac", "kind": "ollama", "base_url": "http://192.168.1.9:11434", "locality": "local",
    "source": "stored", "state": "ok", "has_key": False, "message": None,
}  # fmt: skip


def test_providers_are_listed_with_what_is_wrong(router: FakeRouter, signalbox: Signalbox) -> None:
    """A table for a person, the router's own words below it."""
    router.says(f"GET {PATH}", {"data": [{**ROW, "state": "disabled", "message": "no key"}]})
    ran = signalbox("providers")
    assert ran.out.splitlines()[1].split() == [
        "mac", "ollama", "http://192.168.1.9:11434", "local", "stored", "disabled", "no",
    ]  # fmt: skip
    assert ran.out.splitlines()[2] == "mac: no key"
    assert signalbox("providers", "--json").json["data"][0]["name"] == "mac"


@pytest.mark.parametrize(
    ("typed", "route", "body"),
    [
        (
            "add mac http://h:1 --kind ollama --locality local",
            f"POST {PATH}",
            {"name": "mac", "kind": "ollama", "base_url": "http://h:1", "locality": "local"},
        ),
        (
            "add mac http://h:1 --header X-A=1=2 --timeout idle_s=3 --proxy http://p:1",
            f"POST {PATH}",
            {
                "name": "mac", "kind": "openai", "base_url": "http://h:1", "proxy": "http://p:1",
                "headers": {"X-A": "1=2"}, "timeouts": {"idle_s": 3.0},
            },
        ),
        (
            "add mac http://h:1 --key-env THE_KEY",
            f"POST {PATH}",
            {"name": "mac", "kind": "openai", "base_url": "http://h:1", "api_key": "sk-env"},
        ),
        (
            "add aws --kind litellm --litellm-provider bedrock --option aws_region_name=eu-west-1",
            f"POST {PATH}",
            {
                "name": "aws", "kind": "litellm", "litellm_provider": "bedrock",
                "options": {"aws_region_name": "eu-west-1"},
            },
        ),
        (
            "add mac http://h:1 --shims json_object,max_tokens",
            f"POST {PATH}",
            {
                "name": "mac", "kind": "openai", "base_url": "http://h:1",
                "shims": ["json_object", "max_tokens"],
            },
        ),
        ("edit mac --shims none", f"PATCH {PATH}/mac", {"shims": []}),
        ("edit mac --keyring mine", f"PATCH {PATH}/mac", {"api_key": {"keyring": "mine"}}),
        ("edit mac --key", f"PATCH {PATH}/mac", {"api_key": "sk-piped"}),
        (
            "edit mac --base-url http://i:1 --no-key --no-headers",
            f"PATCH {PATH}/mac",
            {"base_url": "http://i:1", "api_key": None, "headers": None},
        ),
        ("edit mac --ca-file /a.pem", f"PATCH {PATH}/mac", {"ca_file": "/a.pem"}),
    ],
)  # fmt: skip
def test_what_is_typed_is_what_is_sent(
    typed: str,
    route: str,
    body: object,
    router: FakeRouter,
    signalbox: Signalbox,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only what was given; a key from a variable or a pipe, never from the command line."""
    monkeypatch.setenv("THE_KEY", "sk-env")
    monkeypatch.setattr(sys, "stdin", io.StringIO("sk-piped\n"))
    router.says(route, ROW)
    ran = signalbox("providers", *typed.split())
    assert ran.code == 0, ran.err
    assert router.seen[-1].body == body
    assert "sk-" not in ran.out + ran.err


@pytest.mark.parametrize(
    "typed",
    [
        "add m http://h --key-env NO_SUCH",
        "edit m --header x",
        "edit m --timeout idle_s=soon",
        "edit m",
    ],
)
def test_what_cannot_be_meant_is_said(typed: str, signalbox: Signalbox) -> None:
    """Exit code 2, before anything is sent."""
    assert signalbox("providers", *typed.split()).code == 2


@pytest.mark.parametrize(
    "typed",
    ["edit m --key --no-key", "edit m --header a=b --no-headers", "add m http://h --no-key"],
)
def test_what_contradicts_itself_is_refused(typed: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither of both wins in silence."""
    with pytest.raises(SystemExit) as ended:
        main(["providers", *typed.split()])
    assert ended.value.code == 2
    assert "usage: signalbox" in capsys.readouterr().err


def test_removing_says_who_still_names_it(router: FakeRouter, signalbox: Signalbox) -> None:
    """A binding that dangles is not left to be found out."""
    told = {"name": "mac", "removed": True, "still_named_by": ["text", "vision"]}
    router.says(f"DELETE {PATH}/mac", told)
    ran = signalbox("providers", "rm", "mac")
    assert ran.out.splitlines() == [
        "mac is removed.", "Still named, without effect, by: text, vision.",
    ]  # fmt: skip
    assert signalbox("providers", "rm", "mac", "--json").json == told


@pytest.mark.parametrize(("ok", "code"), [(True, 0), (False, 1)])
def test_a_test_ends_with_a_code_that_scripts_can_use(
    ok: bool, code: int, router: FakeRouter, signalbox: Signalbox
) -> None:
    """0 where the provider can be used, 1 and why where it cannot."""
    router.says(f"POST {PATH}/mac/test", {"name": "mac", "ok": ok, "message": "the words"})
    ran = signalbox("providers", "test", "mac")
    assert ran.code == code
    assert "the words" in (ran.out if ok else ran.err)
