"""`models`: what there is, fetching it, deleting it, through the running router or without one."""

import sys
import threading
from typing import Any
from urllib.parse import quote

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from backends.catalogue import BUILTIN_MODELS, BuiltinModel, find_builtin
from router.cli.call import Call
from router.cli.failure import CommandFailure, UsageFailure
from router.cli.output import Output
from router.cli.router_client import RouterClient

_PATH = "/admin/builtin/models"
_ROW = ("id", "state", "size_mb", "capabilities", "path")
_KNOWN_ROW = ("model", "can", "cannot", "context_length", "where", "assigned")
# How often a download is looked at while the router does it.
_LOOK_S = 0.25


def run(call: Call, client: RouterClient, output: Output) -> None:
    """Run `models list`, `pull`, `rm`, `probe` or `forget`."""
    match call.options.action:
        case "list":
            _list(client, output)
        case "pull":
            _pull(call, client, output)
        case "probe":
            _probe(call, client, output)
        case "forget":
            _forget(call, client, output)
        case _:
            _remove(call, client, output)


def _list(client: RouterClient, output: Output) -> None:
    builtin = client.get(_PATH)["data"]
    ours = {row["id"] for row in builtin}
    told = client.get("/admin/models")
    known, notices = told["data"], told["notices"]
    # Only a model of our own process has a status.
    others = [row for row in known if row["status"] is None or row["id"] not in ours]
    rows = client.get("/v1/models")["data"]
    names = [row["id"] for row in rows if row["owned_by"] == "signalbox"]
    if output.as_json:
        output.document({"builtin": builtin, "others": others, "names": names, "notices": notices})
        return
    output.table(_ROW, builtin)
    if others:
        output.line()
        output.table(_KNOWN_ROW, [_known_row(row) for row in others])
    if names:
        output.line()
        output.line(f"also answering to: {', '.join(names)}")
    for notice in notices:
        output.line()
        output.line(notice)


def _known_row(row: dict[str, Any]) -> dict[str, Any]:
    """Return a model as a table shows it: what it can, and on whose word, at a glance."""
    facts = row["facts"].items()
    return {
        **row,
        "can": [f"{need} ({fact['source']})" for need, fact in facts if fact["value"]],
        "cannot": [f"{need} ({fact['source']})" for need, fact in facts if fact["value"] is False],
        "where": row["locality"] or "unknown",
    }


def _probe(call: Call, client: RouterClient, output: Output) -> None:
    options = call.options
    wanted: dict[str, Any] = {"model": options.model, "allow_remote": options.yes}
    if options.capability:
        wanted["capabilities"] = options.capability
    told = client.call("POST", "/admin/models/probe", wanted, patient=True)
    if output.as_json:
        output.document(told)
        return
    rows = [
        {
            "capability": need,
            "verdict": "unknown" if verdict["value"] is None else verdict["value"],
            "why": verdict["why"],
        }
        for need, verdict in told["verdicts"].items()
    ]
    output.table(("capability", "verdict", "why"), rows)


def _forget(call: Call, client: RouterClient, output: Output) -> None:
    model = call.options.model
    told = client.call("DELETE", f"/admin/models/facts?model={quote(model, safe='')}")
    if output.as_json:
        output.document(told)
    else:
        output.line(f"{model}: {', '.join(told['forgotten']) or 'nothing'} forgotten.")


def _pull(call: Call, client: RouterClient, output: Output) -> None:
    model = _known(call.options.model)
    # The bar is for a person's eyes; what a script reads comes at the end.
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
        transient=True,
    ) as progress:
        if client.is_running():
            row = _pull_through_router(client, model, progress)
        else:
            from router.cli.pull import pull  # noqa: PLC0415 only where no router does it

            row = pull(call, model, progress)
    if output.as_json:
        output.document(row)
    else:
        output.line(f"{model.alias} is there: {row['path']}")


def _pull_through_router(
    client: RouterClient, model: BuiltinModel, progress: Progress
) -> dict[str, Any]:
    # Where it is there already, too: the router may not have heard of it.
    client.call("POST", f"{_PATH}/{model.alias}/download", {})
    bar = progress.add_task(model.alias, total=100)
    pause = threading.Event()
    while (row := _row(client, model))["state"] == "downloading":
        progress.update(bar, completed=row["percent"] or 0)
        pause.wait(_LOOK_S)
    if row["state"] != "ready":
        raise CommandFailure(row["message"] or f"{model.alias} could not be fetched.")
    return row


def _row(client: RouterClient, model: BuiltinModel) -> dict[str, Any]:
    rows: list[dict[str, Any]] = client.get(_PATH)["data"]
    for row in rows:
        if row["id"] == model.alias:
            return row
    raise CommandFailure(f"The router that is running does not know {model.alias}.")


def _remove(call: Call, client: RouterClient, output: Output) -> None:
    model = _known(call.options.model)
    if client.is_running():
        row = client.call("DELETE", f"{_PATH}/{model.alias}")
    else:
        from router.cli.pull import remove  # noqa: PLC0415 only where no router does it

        row = {"id": model.alias, "removed": remove(call, model)}
    if output.as_json:
        output.document(row)
    else:
        output.line(f"{model.alias} {'is deleted' if row['removed'] else 'was not there'}.")


def _known(name: str) -> BuiltinModel:
    model = find_builtin(name.removeprefix("builtin/"))
    if model is None:
        known = ", ".join(each.alias for each in BUILTIN_MODELS)
        raise UsageFailure(f"there is no builtin model {name!r}: {known}")
    return model
