"""What can be typed after `signalbox providers`."""

import argparse

from router.cli.arguments import actions


def add_options(command: argparse.ArgumentParser) -> None:
    """Give `providers` its actions."""
    told = actions(
        command,
        {
            "list": "show the providers (the default)",
            "add": "add a provider, which is kept until it is removed",
            "edit": "change a provider that was added",
            "rm": "remove a provider that was added, and its key",
            "test": "ask a provider for its list of models, once",
        },
    )
    for name in ("add", "edit", "rm", "test"):
        told[name].add_argument("name", metavar="NAME", help="the provider's name")
    told["add"].add_argument(
        "base_url", metavar="URL", nargs="?",
        help="such as https://api.example.com/v1; of kind litellm it may be left out",
    )  # fmt: skip
    _keys_of_a_provider(told["add"], kind=" (default: openai)")
    told["edit"].add_argument("--base-url", metavar="URL", help="another address")
    key, headers = _keys_of_a_provider(told["edit"])
    key.add_argument("--no-key", action="store_true", help="take its key away")
    headers.add_argument("--no-headers", action="store_true", help="take its headers away")


def _keys_of_a_provider(
    action: argparse.ArgumentParser, kind: str = ""
) -> tuple[argparse._ActionsContainer, argparse._ActionsContainer]:
    """Give an action the keys of a provider; return the groups of its key and of its headers."""
    kinds = ("openai", "ollama", "litellm")
    action.add_argument("--kind", choices=kinds, help=f"how to talk to it{kind}")
    action.add_argument(
        "--litellm-provider", metavar="NAME", help="LiteLLM's name for it, such as anthropic"
    )
    action.add_argument(
        "--option", metavar="NAME=VALUE", action="append", default=[],
        help="what LiteLLM has to know of it, such as aws_region_name=eu-central-1",
    )  # fmt: skip
    key = action.add_mutually_exclusive_group()
    # Never as an argument: every program on the machine can read those.
    key.add_argument("--key", action="store_true", help="ask for its key, or read it from a pipe")
    key.add_argument("--key-env", metavar="NAME", help="take its key from this variable, now")
    key.add_argument("--keyring", metavar="NAME", help="the key's name in the system's keyring")
    action.add_argument(
        "--locality",
        choices=("local", "remote"),
        help="where prompts end up (default: local for addresses of this machine's loopback)",
    )
    action.add_argument(
        "--shims",
        metavar="NAME,NAME",
        help="change requests that its server would not do: docs/providers.md; none: no change",
    )
    action.add_argument("--proxy", metavar="URL", help="reach it through this proxy")
    action.add_argument("--ca-file", metavar="FILE", help="trust this authority too")
    headers = action.add_mutually_exclusive_group()
    headers.add_argument(
        "--header", metavar="NAME=VALUE", action="append", default=[], help="add to each request"
    )
    action.add_argument(
        "--timeout", metavar="NAME=SECONDS", action="append", default=[],
        help="connect_s, first_byte_s, idle_s or total_s",
    )  # fmt: skip
    return key, headers
