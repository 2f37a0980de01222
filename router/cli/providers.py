"""`providers`: who serves models, changed while the router runs."""

import getpass
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from router.cli.call import Call
from router.cli.failure import CommandFailure, UsageFailure
from router.cli.output import Output
from router.cli.router_client import RouterClient

_PATH = "/admin/providers"
_ROW = ("name", "kind", "base_url", "locality", "source", "state", "has_key")
# The options that are keys of a provider under the same name.
_PLAIN = ("kind", "litellm_provider", "base_url", "locality", "proxy")


def run(call: Call, client: RouterClient, output: Output) -> None:
    """Run `providers list`, `add`, `edit`, `rm` or `test`."""
    options = call.options
    match options.action:
        case "list":
            _list(client, output)
        case "add":
            told = {"name": options.name, "kind": "openai", **_told(call)}
            _show(client.call("POST", _PATH, told), output)
        case "edit":
            if not (changes := _told(call)):
                raise UsageFailure("say what is to be changed: signalbox providers edit --help")
            _show(client.call("PATCH", _at(options.name), changes), output)
        case "rm":
            _remove(options.name, client, output)
        case _:
            _test(options.name, client, output)


def _at(name: str) -> str:
    return f"{_PATH}/{quote(name, safe='')}"


def _list(client: RouterClient, output: Output) -> None:
    content = client.get(_PATH)
    if output.as_json:
        output.document(content)
        return
    output.table(_ROW, content["data"])
    for row in content["data"]:
        _tell(row, output)


def _show(row: dict[str, Any], output: Output) -> None:
    if output.as_json:
        output.document(row)
        return
    output.table(_ROW, [row])
    _tell(row, output)


def _tell(row: dict[str, Any], output: Output) -> None:
    if row.get("message"):
        output.line(f"{row['name']}: {row['message']}")


def _remove(name: str, client: RouterClient, output: Output) -> None:
    row = client.call("DELETE", _at(name))
    if output.as_json:
        output.document(row)
        return
    output.line(f"{name} is removed.")
    if row["still_named_by"]:
        output.line(f"Still named, without effect, by: {', '.join(row['still_named_by'])}.")


def _test(name: str, client: RouterClient, output: Output) -> None:
    verdict = client.call("POST", f"{_at(name)}/test", {})
    if output.as_json:
        output.document(verdict)
    elif verdict["ok"]:
        output.line(verdict["message"])
    if not verdict["ok"]:
        raise CommandFailure(verdict["message"])


def _told(call: Call) -> dict[str, Any]:
    """Return what is said of a provider, by the keys of the API."""
    options = call.options
    given = {name: getattr(options, name) for name in _PLAIN}
    told = {name: value for name, value in given.items() if value is not None}
    if options.ca_file is not None:
        # The router's folder is another.
        told["ca_file"] = str(Path(options.ca_file).expanduser().absolute())
    if options.header:
        told["headers"] = dict(_pair(text) for text in options.header)
    elif getattr(options, "no_headers", False):
        told["headers"] = None
    if options.option:
        told["options"] = dict(_pair(text) for text in options.option)
    if options.timeout:
        told["timeouts"] = {name: _number(value) for name, value in map(_pair, options.timeout)}
    if options.shims is not None:
        names = [] if options.shims == "none" else options.shims.split(",")
        told["shims"] = [name.strip() for name in names]
    return told | _key(options, call)


def _key(options: Namespace, call: Call) -> dict[str, Any]:
    if getattr(options, "no_key", False):
        return {"api_key": None}
    if options.keyring is not None:
        return {"api_key": {"keyring": options.keyring}}
    if options.key_env is not None:
        key = call.environ.get(options.key_env)
        if not key:
            raise UsageFailure(f"the variable {options.key_env} holds no key")
        return {"api_key": key}
    if options.key:
        return {"api_key": _asked()}
    return {}


def _asked() -> str:
    if sys.stdin.isatty():
        return getpass.getpass("API key: ")
    return sys.stdin.readline().strip()


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise UsageFailure(f"{text!r}: write NAME=VALUE")
    return name.strip(), value.strip()


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UsageFailure(f"{text!r} is no number of seconds") from None
