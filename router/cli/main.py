"""`signalbox`: reads the command line and hands it to the command's own module.

A command's module is imported when it is called: `serve` loads no HTTP client and no tables.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from router import collector
from router.cli import provider_options
from router.cli.arguments import actions, common, sentence
from router.cli.call import Call
from router.cli.failure import CommandFailure, Exit
from router.settings import SettingsError, environment

_EPILOG = """\
exit codes:
  0  done
  1  refused: by the router, by a provider, or by what there is; the text says why
  2  the command line or the configuration is wrong
  3  the router is not running (start it with: signalbox serve)

A key for the router's API comes from --api-key, from SIGNALBOX_API_KEY, or from the
configuration's admin_key.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = parser().parse_args(argv)
    try:
        return _run(Call(options, environment()))
    except CommandFailure as failure:
        sys.stderr.write(f"signalbox: {failure}\n")
        return failure.exit
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        if options.command != "serve":
            sys.stderr.write("signalbox: where a router runs all the same, reach it by --url\n")
        return Exit.USAGE
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except BrokenPipeError:
        # Who read our output (`| head`) has seen enough; Python must not complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.OK


def _run(call: Call) -> int:
    command: str = call.options.command
    if command == "serve":
        collector.hold()
        from router.cli import serve  # noqa: PLC0415 each command loads what it needs

        return serve.run(call)
    from router.cli import commands  # noqa: PLC0415 likewise

    return commands.run(call)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    top = argparse.ArgumentParser(
        prog="signalbox",
        description="One OpenAI endpoint for every model you have.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[common(None)],
        allow_abbrev=False,
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, text: str) -> argparse.ArgumentParser:
        # The options may stand before the command or after it; given after, they win.
        return commands.add_parser(
            name,
            help=text,
            description=sentence(text),
            parents=[common(argparse.SUPPRESS)],
            allow_abbrev=False,
        )

    serve = add("serve", "run the router")
    serve.add_argument("--host", help="the address to listen on (default: 127.0.0.1)")
    serve.add_argument("--port", type=int, help="the port to listen on (default: 60315)")
    add("status", "show what runs, and who serves what")
    _capabilities(add("capabilities", "show or change who serves what"))
    providers = add("providers", "show, add, edit, remove or test who serves models")
    provider_options.add_options(providers)
    _models(add("models", "list models, try them out; fetch or delete builtin ones"))
    add("reload", "have the router read its configuration again")
    ask = add("ask", "ask a model, and print the answer as it comes")
    ask.add_argument("prompt", metavar="TEXT", help="the question")
    _question(ask)
    explain = add("explain", "show who would serve a request, and why, without asking a model")
    body = explain.add_mutually_exclusive_group(required=True)
    body.add_argument("prompt", metavar="TEXT", nargs="?", help="the question")
    body.add_argument("--body", type=Path, metavar="FILE", help="a request as JSON instead")
    explain.add_argument(
        "--path", default="/v1/chat/completions", help="the endpoint (default: %(default)s)"
    )
    explain.add_argument("--priority", help="as x-priority: high, low or system")
    explain.add_argument(
        "--local-only", action="store_true", help="as x-signalbox-local-only: no remote model"
    )
    _question(explain)
    _requests(add("requests", "show what is in flight; end one of it"))
    return top


def _capabilities(command: argparse.ArgumentParser) -> None:
    told = actions(
        command,
        {
            "list": "show who serves what (the default)",
            "assign": "let models serve a capability; the first serves, the rest are fallbacks",
            "unassign": "let nobody serve a capability",
            "reset": "forget what was assigned: the configuration counts again",
        },
    )
    command.set_defaults(wait=False)
    for name in ("assign", "unassign", "reset"):
        action = told[name]
        action.add_argument("capability", help="vision, text, structured_output, tool_use, ...")
        if name == "assign":
            action.add_argument("models", metavar="MODEL", nargs="+", help="provider/model")
        action.add_argument(
            "--wait", action="store_true", help="return once the process is ready, or gone"
        )


def _models(command: argparse.ArgumentParser) -> None:
    told = actions(
        command,
        {
            "list": "show models, what they can do and where they stand (the default)",
            "pull": "fetch a builtin model; does nothing when it is there",
            "rm": "delete a builtin model from the data folder",
            "probe": "try out what a model can do: text, pictures, tools, schemas",
            "forget": "forget what trying a model out has shown",
        },
    )
    for name in ("pull", "rm"):
        told[name].add_argument("model", metavar="MODEL", help="such as smollm2-135m")
    for name in ("probe", "forget"):
        told[name].add_argument("model", metavar="MODEL", help="provider/model")
    told["probe"].add_argument(
        "--capability", action="append", help="try this one only; may be repeated"
    )
    told["probe"].add_argument(
        "--yes", action="store_true", help="also where the trial leaves this machine"
    )


def _requests(command: argparse.ArgumentParser) -> None:
    told = actions(
        command,
        {
            "list": "show the requests in flight (the default)",
            "cancel": "end one: its client is told, its provider is left",
        },
    )
    told["cancel"].add_argument("number", metavar="ID", type=int, help="as the list shows it")


def _question(command: argparse.ArgumentParser) -> None:
    command.add_argument("--model", default="auto", help="auto, a capability, an alias or a model")
    command.add_argument(
        "--image", type=Path, metavar="FILE", action="append", default=[], help="a picture to see"
    )


if __name__ == "__main__":
    sys.exit(main())
