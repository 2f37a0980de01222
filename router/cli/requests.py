"""`requests`: what is in flight, and ending one of it."""

from router.cli.call import Call
from router.cli.output import Output
from router.cli.router_client import RouterClient

_PATH = "/admin/requests"
_ROW = ("id", "priority", "state", "provider", "model", "age_s", "attempts", "request_id")


def run(call: Call, client: RouterClient, output: Output) -> None:
    """Print the requests in flight, or end one and print how far it was."""
    options = call.options
    if options.action == "cancel":
        rows = [client.call("DELETE", f"{_PATH}/{options.number}")]
        content = rows[0]
    else:
        content = client.get(_PATH)
        rows = content["data"]
    if output.as_json:
        output.document(content)
    elif rows:
        output.table(_ROW, rows)
    else:
        output.line("nothing is in flight")
