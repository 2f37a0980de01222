"""`reload`, and what `status` tells of the configuration."""

from typing import Any

from router.cli.call import Call
from router.cli.output import Output
from router.cli.router_client import RouterClient


def reload(_call: Call, client: RouterClient, output: Output) -> None:
    """Have the router read its configuration again, and print what changed."""
    told = client.call("POST", "/admin/reload", {})
    if output.as_json:
        output.document(told)
        return
    output.line(f"{told['source']}: changed: {', '.join(told['changed']) or 'nothing'}")
    if told["needs_restart"]:
        output.line(f"needs a restart: {', '.join(told['needs_restart'])}")
    for notice in told["notices"]:
        output.line(notice)


def tell(standing: dict[str, Any], output: Output) -> None:
    """Print where what is in force is not what the file says."""
    if standing["faults"]:
        output.line()
        output.line("The configuration file has faults; what was in force before them still is:")
        for fault in standing["faults"]:
            output.line(f"  {fault}")
    if standing["needs_restart"]:
        output.line()
        output.line(f"Changed, needs a restart: {', '.join(standing['needs_restart'])}")
