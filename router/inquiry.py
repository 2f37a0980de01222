"""Asking a provider for its list of models, to tell a person whether it can be used."""

import asyncio
import time
from dataclasses import dataclass

from router.catalog import Kind, Provider
from router.errors import RouteFailed
from router.metadata import MAX_LIST_BYTES, openai_list
from router.question import answered, question
from router.reach import Reach

# A person waits, and a list is short.
_LONGEST_S = 15.0
_OK = 200
_NOT_FOUND = 404
_REFUSED_KEY = frozenset({401, 403})


@dataclass(frozen=True, slots=True)
class Inquiry:
    """What came of asking: whether the provider can be used, and in words what to do if not.

    `status` is None where no answer came, `models` where the answer was no list.
    """

    name: str
    ok: bool
    message: str
    status: int | None = None
    models: tuple[str, ...] | None = None
    took_ms: float | None = None


async def inquire(provider: Provider, reach: Reach) -> Inquiry:
    """Return what a provider answers when it is asked for its models; sends its key, no prompt."""
    if provider.kind is Kind.LITELLM:
        told = (
            f"{provider.name} speaks a dialect in which it cannot be asked for its models. Ask it "
            f"something: signalbox models probe {provider.name}/MODEL --yes"
        )
        return Inquiry(provider.name, ok=False, message=told)
    url = f"{provider.base_url}/models"
    within_s = min(_LONGEST_S, reach.deadlines.first_byte_s)
    since = time.monotonic()
    try:
        status, body = await answered(
            reach.upstream, question(provider, url), within_s, MAX_LIST_BYTES
        )
    except RouteFailed as error:
        return Inquiry(provider.name, ok=False, message=error.message)
    except TimeoutError:
        told = f"{provider.name} did not answer within {within_s:g} s."
        return Inquiry(provider.name, ok=False, message=told)
    except ValueError as error:
        told = f"{provider.name} answers at {url} with {error}: that is no list of models."
        return Inquiry(provider.name, ok=False, message=told)
    took_ms = round((time.monotonic() - since) * 1000, 1)
    # Requests run beside this, and some lists are long.
    models = await asyncio.to_thread(_models, provider, body) if status == _OK else None
    return Inquiry(
        provider.name,
        ok=models is not None,
        message=_words(provider, url, status, models),
        status=status,
        models=models,
        took_ms=took_ms,
    )


def _models(provider: Provider, body: bytes) -> tuple[str, ...] | None:
    """Return the ids of a list, as discovery reads it; None for anything else."""
    try:
        return tuple(model.id for model in openai_list(body, provider.name).values())
    except ValueError:
        return None


def _words(provider: Provider, url: str, status: int, models: tuple[str, ...] | None) -> str:
    name = provider.name
    if models is not None:
        number = "1 model" if len(models) == 1 else f"{len(models)} models"
        return f"{name} answers and lists {number}."
    if status in _REFUSED_KEY:
        if provider.api_key is None:
            return f"{name} wants a key (status {status}), and has none here: give it an api_key."
        return f"{name} refuses the key that it has here (status {status})."
    if status == _NOT_FOUND:
        return f"{name} answers, but there is nothing at {url}: is the path of base_url right?"
    if status == _OK:
        return (
            f"{name} answers at {url}, but not with a list of models as OpenAI's protocol has it."
        )
    return f"{name} answers with status {status} at {url}."
