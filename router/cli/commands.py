"""The commands that talk to the running router: each asks, then prints."""

import sys
from collections.abc import Callable
from urllib.parse import quote

from router.cli import configuration, models, providers, questions, requests
from router.cli.call import Call
from router.cli.failure import Exit
from router.cli.output import Output
from router.cli.router_client import RouterClient

_ROW = ("capability", "models", "state", "source")
_BACKEND_ROW = ("name", "state", "pid", "port", "memory_mb", "restarts")


def run(call: Call) -> int:
    """Run any command but `serve`; return its exit code."""
    output = Output(sys.stdout, as_json=call.options.json)
    with RouterClient(call.url, call.api_key) as client:
        _COMMANDS[call.options.command](call, client, output)
    return Exit.OK


def status(call: Call, client: RouterClient, output: Output) -> None:
    """Print who serves what and which local processes run."""
    client.get("/health")
    the_map = client.get("/admin/capabilities")["data"]
    backends = client.get("/admin/backends")["data"]
    standing = client.get("/admin/status")
    if output.as_json:
        told = {"capabilities": the_map, "backends": backends, "configuration": standing}
        output.document({"url": call.url, **told})
        return
    output.line(f"Signalbox runs at {call.url}/v1")
    output.line()
    output.table(_ROW, the_map)
    if backends:
        output.line()
        output.table(_BACKEND_ROW, backends)
    for row in the_map:
        if row.get("message"):
            output.line(f"{row['capability']}: {row['message']}")
    configuration.tell(standing, output)


def capabilities(call: Call, client: RouterClient, output: Output) -> None:
    """Print the map, or change one capability of it and print that."""
    options = call.options
    if options.action == "list":
        content = client.get("/admin/capabilities")
        if output.as_json:
            output.document(content)
        else:
            output.table(_ROW, content["data"])
        return
    path = f"/admin/capabilities/{quote(options.capability, safe='')}"
    if options.wait:
        path += "?wait=gone" if options.action == "unassign" else "?wait=ready"
    if options.action == "reset":
        row = client.call("DELETE", path, patient=True)
    else:
        chosen = options.models if options.action == "assign" else []
        row = client.call("PUT", path, {"models": chosen}, patient=True)
    if output.as_json:
        output.document(row)
    else:
        output.table(_ROW, [row])
        if row.get("message"):
            output.line(str(row["message"]))


_COMMANDS: dict[str, Callable[[Call, RouterClient, Output], None]] = {
    "status": status,
    "capabilities": capabilities,
    "providers": providers.run,
    "models": models.run,
    "reload": configuration.reload,
    "ask": questions.ask,
    "explain": questions.explain,
    "requests": requests.run,
}
