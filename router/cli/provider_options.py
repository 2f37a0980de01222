"""What can be typed after `signalbox providers`."""

import argparse
from collections.abc import Callable


def add_options(
    command: argparse.ArgumentParser, common: Callable[[object], argparse.ArgumentParser]
) -> None:
    """Give `providers` its actions; `common` returns the options that every command takes."""
    actions = command.add_subparsers(dest="action", metavar="ACTION")
    command.set_defaults(action="list")

    def add(name: str, text: str) -> argparse.ArgumentParser:
        action = actions.add_parser(
            name, help=text, parents=[common(argparse.SUPPRESS)], allow_abbrev=False
        )
        if name != "list":
            action.add_argument("name", metavar="NAME", help="the provider's name")
        return action

    add("list", "show the providers (the default)")
    new = add("add", "add a provider, which is kept until it is removed")
    new.add_argument("base_url", metavar="URL", help="such as http://192.168.1.9:11434")
    _keys_of_a_provider(new)
    edit = add("edit", "change a provider that was added")
    edit.add_argument("--base-url", metavar="URL", help="another address")
    _keys_of_a_provider(edit)
    edit.add_argument("--no-key", action="store_true", help="take its key away")
    edit.add_argument("--no-headers", action="store_true", help="take its headers away")
    add("rm", "remove a provider that was added, and its key")
    add("test", "ask a provider for its list of models, once")


def _keys_of_a_provider(action: argparse.ArgumentParser) -> None:
    action.add_argument("--kind", choices=("openai", "ollama"), help="how to talk to it")
    key = action.add_mutually_exclusive_group()
    # Never as an argument: every program on the machine can read those.
    key.add_argument("--key", action="store_true", help="ask for its key, or read it from a pipe")
    key.add_argument("--key-env", metavar="NAME", help="take its key from this variable, now")
    key.add_argument("--keyring", metavar="NAME", help="the key's name in the system's keyring")
    action.add_argument("--locality", choices=("local", "remote"), help="where prompts stay")
    action.add_argument(
        "--shims",
        metavar="NAME,NAME",
        help="change requests that its server would not do: docs/providers.md; none: no change",
    )
    action.add_argument("--proxy", metavar="URL", help="reach it through this proxy")
    action.add_argument("--ca-file", metavar="FILE", help="trust this authority too")
    action.add_argument(
        "--header", metavar="NAME=VALUE", action="append", default=[], help="add to each request"
    )
    action.add_argument(
        "--timeout", metavar="NAME=SECONDS", action="append", default=[],
        help="connect_s, first_byte_s, idle_s or total_s",
    )  # fmt: skip
