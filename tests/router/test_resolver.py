"""From a requirement and a catalog to routes, or to the error that says why there is none."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from router.capabilities import Capability, Dialect, Requirement
from router.catalog import Alias, Binding, Catalog, Fact, Kind, Locality, Model, Provider, Source
from router.endpoints import CHAT, ENDPOINTS
from router.errors import LocalityUnknown, Refused, RouteFailed
from router.resolver import decide, resolve, without

BUILTIN = Provider("builtin", Kind.BUILTIN, "http://127.0.0.1:60316/v1", Locality.LOCAL)
OLLAMA = Provider("ollama", Kind.OLLAMA, "http://127.0.0.1:11434/v1", Locality.LOCAL)
CLOUD = Provider("cloud", Kind.OPENAI, "https://cloud.example/v1", Locality.REMOTE)


def fact(value: bool, source: Source = Source.USER) -> Fact:
    return Fact(value, source)


SMOL = Model(
    "builtin",
    "smollm2-135m",
    {"vision": fact(False, Source.PROVIDER), "tool_use": fact(False, Source.PROVIDER)},
    other_names=("HuggingFaceTB/SmolLM2-135M-Instruct",),
)
SEER = Model("ollama", "seer", {"vision": fact(True)}, locality=Locality.LOCAL)
BLIND = Model("ollama", "blind", {"vision": fact(False)}, locality=Locality.LOCAL)
OTHER = Model("ollama", "other", locality=Locality.LOCAL)
GPT = Model("cloud", "gpt", {"audio": fact(True)})


def catalog(bindings: dict[str, list[str]], *, local_only: bool = False, **options: Any) -> Catalog:
    return Catalog(
        providers={provider.name: provider for provider in (BUILTIN, OLLAMA, CLOUD)},
        models={model.name: model for model in (SMOL, SEER, BLIND, OTHER, GPT)},
        bindings={
            Capability(name): Binding(Capability(name), tuple(models), **options)
            for name, models in bindings.items()
        },
        aliases={
            "gpt-4o": Alias("auto"),
            "eyes": Alias("ollama/seer"),
            "claude-*": Alias("text"),
        },
        local_only=local_only,
    )


def need(*levers: str, model: str | None = None, **options: Any) -> Requirement:
    return Requirement(tuple(Capability(lever) for lever in levers), model=model, **options)


def _classified(body: dict[str, Any]) -> Requirement:
    return CHAT.requirement(body, max_images=9)


def names(requirement: Requirement, known: Catalog) -> list[str]:
    return [route.model.name for route in resolve(requirement, known)]


TEXT = {"text": ["builtin/smollm2-135m"]}


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (None, "builtin/smollm2-135m"),
        ("auto", "builtin/smollm2-135m"),
        ("text", "builtin/smollm2-135m"),
        ("gpt-4o", "builtin/smollm2-135m"),
        ("claude-9-haiku", "builtin/smollm2-135m"),
        ("eyes", "ollama/seer"),
        ("ollama/seer", "ollama/seer"),
        ("ollama/never-heard-of", "ollama/never-heard-of"),
        ("ollama/hf.co/org/name:q4", "ollama/hf.co/org/name:q4"),
        ("seer", "ollama/seer"),
        ("smollm2-135m", "builtin/smollm2-135m"),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "builtin/smollm2-135m"),
        ("builtin/HuggingFaceTB/SmolLM2-135M-Instruct", "builtin/smollm2-135m"),
    ],
)
def test_every_form_of_a_models_name_leads_to_it(model: str | None, expected: str) -> None:
    """Absent, auto, a capability, an alias, a glob, provider/model and a known id all resolve."""
    assert names(need("text", model=model), catalog(TEXT)) == [expected]


@pytest.mark.parametrize(
    ("requirement", "bindings", "code"),
    [
        (need("text", model="evil/repo"), TEXT, "model_not_found"),
        (need("text", model="builtin/evil"), TEXT, "model_not_found"),
        (need("text", model="ollama/"), TEXT, "model_not_found"),
        (need("text"), {}, "capability_not_assigned"),
        (need("text"), {"text": []}, "capability_not_assigned"),
        (need("text"), {"text": ["gone/model"]}, "capability_not_assigned"),
        (need("vision"), TEXT, "capability_not_assigned"),
        (need("text", model="vision"), TEXT, "capability_not_assigned"),
        (need("text", model="smollm2-135m"), {"text": ["ollama/seer"]}, "backend_not_assigned"),
        (need("vision", model="smollm2-135m"), TEXT, "capability_mismatch"),
        (need("vision", model="ollama/blind"), TEXT, "capability_mismatch"),
        (need("vision", model="text"), TEXT, "capability_mismatch"),
        (need("vision", "tool_use"), {"tool_use": ["ollama/blind"]}, "capability_mismatch"),
    ],
)
def test_a_request_that_nothing_can_serve_is_told_why(
    requirement: Requirement, bindings: dict[str, list[str]], code: str
) -> None:
    """Each way to be unservable has its own code, and explaining tells the same."""
    known = catalog(bindings)
    with pytest.raises(Refused) as refusal:
        resolve(requirement, known)
    assert refusal.value.code == code
    told = decide(requirement, known).error
    assert told is not None
    assert (told.code, told.message) == (refusal.value.code, refusal.value.message)


def test_the_first_needed_capabilitys_binding_serves_in_the_users_order() -> None:
    """Vision comes before text; within a binding the user's order counts."""
    known = catalog({"text": ["builtin/smollm2-135m"], "vision": ["ollama/seer", "ollama/other"]})
    assert names(need("vision"), known) == ["ollama/seer", "ollama/other"]


def test_models_with_a_fact_against_them_are_passed_over() -> None:
    """A false fact for any need drops a candidate; unknown keeps its place."""
    known = catalog({"tool_use": ["ollama/blind", "ollama/other", "ollama/seer"]})
    requirement = _classified(
        {"tools": [{}], "messages": [{"role": "tool", "content": [{"type": "image_url"}]}]}
    )
    assert names(requirement, known) == ["ollama/other", "ollama/seer"]


def test_the_next_needed_capability_serves_when_the_first_ones_models_do_not_fit() -> None:
    """When no model of the first binding is left, the next needed capability's binding is tried."""
    known = catalog({"vision": ["gone/model"], "tool_use": ["ollama/seer"]})
    routes = resolve(need("vision", "tool_use"), known)
    assert [(route.model.name, route.capability) for route in routes] == [
        ("ollama/seer", Capability.TOOL_USE)
    ]


def test_assigning_a_model_is_the_users_word_that_it_can() -> None:
    """An assignment outweighs what the provider says of its model."""
    known = catalog({"vision": ["builtin/smollm2-135m"]})
    assert names(need("vision"), known) == ["builtin/smollm2-135m"]


def test_an_input_without_a_lever_needs_a_fact_that_is_true() -> None:
    """Audio goes only to a model that is known to take it."""
    audio = _classified({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]})
    assert names(audio, catalog({"text": ["ollama/seer", "cloud/gpt"]}, allow_remote_fallback=True))
    with pytest.raises(Refused) as refusal:
        resolve(audio, catalog({"text": ["ollama/seer"]}))
    assert refusal.value.code == "capability_mismatch"
    assert "ollama/seer is not known to take audio" in refusal.value.message
    assert "models.ollama/seer: capabilities: {audio: true}" in refusal.value.message


BOTH = {"text": ["ollama/seer", "cloud/gpt"]}


@pytest.mark.parametrize(
    ("known", "requirement", "expected"),
    [
        (catalog(BOTH), need("text"), ["ollama/seer"]),
        (catalog(BOTH, allow_remote_fallback=True), need("text"), ["ollama/seer", "cloud/gpt"]),
        (
            catalog(BOTH, allow_remote_fallback=True),
            need("text", local_only=True),
            ["ollama/seer"],
        ),
        (
            catalog(BOTH, allow_remote_fallback=True, local_only=True),
            need("text"),
            ["ollama/seer"],
        ),
        (
            catalog({"text": ["cloud/gpt", "ollama/seer"]}),
            need("text"),
            ["cloud/gpt", "ollama/seer"],
        ),
        (
            catalog({"text": ["cloud/gpt", "ollama/seer"]}),
            need("text", local_only=True),
            ["ollama/seer"],
        ),
    ],
)
def test_prompts_leave_the_machine_only_where_the_map_says_so(
    known: Catalog, requirement: Requirement, expected: list[str]
) -> None:
    """Remote fallback is opt-in, and local_only removes remote routes at every level."""
    assert names(requirement, known) == expected


@pytest.mark.parametrize("model", [None, "auto", "text", "cloud/gpt", "gpt", "cloudy"])
@pytest.mark.parametrize("seers", [(), ("ollama/blind",), ("cloud/gpt",)])
def test_a_capability_that_stays_local_does_so_under_every_name(
    model: str | None, seers: tuple[str, ...]
) -> None:
    """A picture goes to no cloud where vision is local_only, whichever binding or name is used."""
    known = catalog({"tool_use": ["cloud/gpt"], "text": ["cloud/gpt"]})
    vision = Binding(Capability.VISION, seers, local_only=True)
    known = replace(
        known,
        bindings={**known.bindings, Capability.VISION: vision},
        aliases={"cloudy": Alias("cloud/gpt")},
    )
    with pytest.raises(Refused) as refusal:
        resolve(need("vision", "tool_use", model=model), known)
    assert refusal.value.code == "remote_not_allowed"
    assert names(need("tool_use", model=model), known) == ["cloud/gpt"]


@pytest.mark.parametrize("model", [None, "text", "cloud/gpt"])
def test_local_only_fails_closed(model: str | None) -> None:
    """With only remote models left, the request is refused rather than sent."""
    requirement = need("text", model=model, local_only=True)
    with pytest.raises(Refused) as refusal:
        resolve(requirement, catalog({"text": ["cloud/gpt"]}))
    assert refusal.value.code == "remote_not_allowed"


def test_an_unfit_local_model_is_no_leave_to_go_remote() -> None:
    """Passing over a local model that cannot do it is a fallback as well, and as much opt-in."""
    requirement = need("vision", "tool_use")
    bindings = {"tool_use": ["ollama/blind", "cloud/gpt"]}
    with pytest.raises(Refused, match="remote fallback is not allowed") as refusal:
        resolve(requirement, catalog(bindings))
    assert refusal.value.code == "capability_mismatch"
    assert names(requirement, catalog(bindings, allow_remote_fallback=True)) == ["cloud/gpt"]


def test_a_binding_that_dangles_is_named() -> None:
    """When nobody here has the assigned model, the refusal says which one it is."""
    with pytest.raises(Refused, match="gone/model") as refusal:
        resolve(need("text"), catalog({"text": ["gone/model"]}))
    assert "`signalbox providers` says why" in refusal.value.message


def test_an_unknown_name_is_answered_with_the_nearest_ones() -> None:
    """A typo is met with what may have been meant."""
    with pytest.raises(Refused, match="smollm2-135m"):
        resolve(need("text", model="smollm2-153m"), catalog(TEXT))


class Sealed(dict[str, Model]):
    """Models that can be looked up, and once they are sealed not be gone through."""

    sealed = False

    def __iter__(self) -> Iterator[str]:
        assert not self.sealed
        return super().__iter__()

    def items(self) -> Any:
        assert not self.sealed
        return super().items()

    def values(self) -> Any:
        assert not self.sealed
        return super().values()


@pytest.mark.parametrize("levers", [("text",), ("vision", "tool_use")])
@pytest.mark.parametrize(
    "name",
    [None, "auto", "text", "gpt-4o", "claude-x", "cloud/org/model-7", "cloud/x", "other", "gtp"],
)
def test_a_decision_does_not_go_through_the_models(
    name: str | None, levers: tuple[str, ...]
) -> None:
    """A provider may list tens of thousands: they are sorted once, and not for each request."""
    usual = catalog({"text": ["ollama/other"], "vision": ["ollama/seer"]})
    listed = [Model("cloud", f"org/model-{number}", listed=True) for number in range(300)]
    models = Sealed({**usual.models, **{model.name: model for model in listed}})
    many = replace(usual, models=models)
    first = decide(need(*levers, model="nobody"), many)
    assert first.error is not None
    models.sealed = True
    decide(need(*levers, model=name), many)


def test_explaining_tells_each_candidate_and_why() -> None:
    """A decision shows dropped candidates with their reason and facts with their source."""
    decision = decide(need("vision"), catalog({"vision": ["ollama/seer", "cloud/gpt"]}))
    assert [(each.model, each.kept) for each in decision.candidates] == [
        ("ollama/seer", True),
        ("cloud/gpt", False),
    ]
    assert "remote" in decision.candidates[1].why
    assert decision.candidates[0].facts == {"vision": "true (user)"}


def _refused(requirement: Requirement, known: Catalog) -> Refused:
    with pytest.raises(Refused) as refusal:
        resolve(requirement, known)
    return refusal.value


def _asked(path: str, **fields: Any) -> Requirement:
    return ENDPOINTS[path].requirement(fields, max_images=0)


def test_the_builtin_backend_serves_conversations_only() -> None:
    """Another endpoint passes its models over, and says so where there is no other."""
    embeddings = _asked("/v1/embeddings")
    completions = _asked("/v1/completions")
    both = catalog({"text": ["builtin/smollm2-135m", "ollama/seer"]})
    assert names(completions, both) == ["ollama/seer"]
    bound = catalog({**TEXT, "embeddings": ["builtin/smollm2-135m"]})
    for requirement in (
        embeddings,
        completions,
        _asked("/v1/embeddings", model="builtin/smollm2-135m"),
        _asked("/v1/embeddings", model="text"),
    ):
        error = _refused(requirement, bound)
        assert error.code == "capability_mismatch"
        assert "conversations only" in error.message


def test_a_builtin_model_named_where_it_can_never_serve_is_not_told_to_be_assigned() -> None:
    """Assigning it would not help."""
    requirement = _asked("/v1/embeddings", model="builtin/smollm2-135m")
    error = _refused(requirement, catalog({}))
    assert error.code == "capability_mismatch"


def test_a_dialect_is_no_way_around_locality() -> None:
    """Passing over a local model that can answer in none is falling back from it."""
    messages = _asked("/v1/messages")
    known = catalog(BOTH)
    providers = {
        name: replace(provider, dialects=frozenset({Dialect.RESPONSES}))
        for name, provider in known.providers.items()
    }
    providers["cloud"] = replace(CLOUD, dialects=frozenset({Dialect.MESSAGES}))
    known = replace(known, providers=providers)
    assert _refused(messages, known).code == "capability_mismatch"
    bindings = {
        name: replace(binding, allow_remote_fallback=True)
        for name, binding in known.bindings.items()
    }
    assert names(messages, replace(known, bindings=bindings)) == ["cloud/gpt"]


def test_who_has_not_a_dialect_is_asked_in_chat() -> None:
    """The route says so; who has it is asked in it, and a chat is nothing else."""
    known = catalog(BOTH)
    native = replace(CLOUD, dialects=frozenset(Dialect))
    for path, shims in (("/v1/messages", ("messages_to_chat",)), ("/v1/chat/completions", ())):
        local, *_ = resolve(_asked(path), known)
        assert local.shims == shims
        both = replace(known, providers=dict.fromkeys(known.providers, native))
        assert resolve(_asked(path), both)[0].shims == ()


@pytest.mark.parametrize(
    ("models", "left_out", "options", "expected"),
    [
        (["gone/m", "cloud/gpt"], {}, {}, None),
        (["gone/m", "cloud/gpt"], {}, {"allow_remote_fallback": True}, ["cloud/gpt"]),
        (["gone/m", "cloud/gpt"], {"gone": Locality.REMOTE}, {}, ["cloud/gpt"]),
        (["gone/m", "cloud/gpt"], {"gone": Locality.LOCAL}, {}, None),
        (["cloud/gpt", "gone/m"], {}, {}, ["cloud/gpt"]),
        (["gone/m", "ollama/seer", "cloud/gpt"], {}, {}, ["ollama/seer"]),
    ],
)
def test_a_model_that_is_gone_opens_no_way_out(
    models: list[str], left_out: dict[str, Locality], options: Any, expected: list[str] | None
) -> None:
    """Behind what may have been local a remote model needs leave, as behind what is local."""
    known = replace(catalog({"text": models}, **options), left_out=left_out)
    if expected is not None:
        assert names(need("text"), known) == expected
        return
    with pytest.raises(Refused) as refused:
        resolve(need("text"), known)
    assert "gone/m before it is gone" in refused.value.message


@pytest.mark.parametrize("local_only", [False, True])
def test_what_may_be_remote_counts_as_neither(local_only: bool) -> None:
    """A model of which nobody has said where it runs serves first, is no fallback, and never stays.

    Nor is a remote one behind it anything but a fallback: what it failed for may have been local.
    """
    unknown_first = catalog({"text": ["ollama/unheard", "cloud/gpt"]}, local_only=local_only)
    unknown_last = catalog({"text": ["ollama/seer", "ollama/unheard"]}, local_only=local_only)
    if local_only:
        with pytest.raises(LocalityUnknown) as refusal:
            resolve(need("text"), unknown_first)
        assert refusal.value.providers == ("ollama",)
        assert refusal.value.code == "remote_not_allowed"
    else:
        assert names(need("text"), unknown_first) == ["ollama/unheard"]
    assert names(need("text"), unknown_last) == ["ollama/seer"]
    allowed = catalog({"text": ["ollama/seer", "ollama/unheard"]}, allow_remote_fallback=True)
    assert names(need("text"), allowed) == ["ollama/seer", "ollama/unheard"]


# What a decision comes to where a request would not even be sent by some of its routes


def _failures(**messages: str) -> dict[str, RouteFailed]:
    return {
        f"ollama/{model}": RouteFailed("context_length_exceeded", text)
        for model, text in messages.items()
    }


def test_who_would_not_be_asked_is_passed_over() -> None:
    """Its route is gone and its candidate says why; the others stay as they were."""
    before = decide(
        _asked("/v1/chat/completions"), catalog({"text": ["ollama/seer", "ollama/other"]})
    )
    after = without(before, _failures(seer="is small"))
    assert [route.model.id for route in after.routes] == ["other"]
    assert [(each.kept, each.why) for each in after.candidates] == [
        (False, "is small"),
        (True, before.candidates[1].why),
    ]
    assert after.error is None
    assert without(before, {}) is before


def test_where_nobody_would_be_asked_the_first_ones_reason_is_the_answer() -> None:
    """A request is refused by the words of the route that it would have taken."""
    before = decide(
        _asked("/v1/chat/completions"), catalog({"text": ["ollama/seer", "ollama/other"]})
    )
    after = without(before, _failures(seer="is small", other="too"))
    assert after.routes == ()
    assert after.error is not None
    assert (after.error.code, after.error.message) == ("context_length_exceeded", "is small")


def test_litellm_translates_conversations_alone() -> None:
    """In whatever dialect they come; a request to any other endpoint goes past such a provider."""
    provider = Provider("claude", Kind.LITELLM, "", Locality.REMOTE, cloud="anthropic")
    known = Catalog(providers={"claude": provider}, models={}, bindings={})
    chat = resolve(_asked("/v1/chat/completions", model="claude/x"), known)
    assert chat[0].shims == ("litellm",)
    message = resolve(_asked("/v1/messages", model="claude/x"), known)
    assert message[0].shims == ("messages_to_chat", "litellm")
    with pytest.raises(Refused, match="LiteLLM translates conversations only"):
        resolve(_asked("/v1/embeddings", model="claude/x"), known)


@pytest.mark.parametrize("model", ["gone/m", "text"])
def test_a_provider_that_is_left_out_is_told_apart_from_one_that_is_not_there(model: str) -> None:
    """Whoever asks for its model is sent to where the reason stands."""
    known = replace(catalog({"text": ["gone/m"]}), left_out={"gone": Locality.REMOTE})
    with pytest.raises(Refused) as refused:
        resolve(need("text", model=model), known)
    assert "left out" in refused.value.message
    assert "`signalbox providers` says why" in refused.value.message
