"""Requirement + Catalog → ordered Routes, or a typed error. Explaining a decision is making it."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from router.capabilities import Capability, Enforce, Requirement
from router.catalog import (
    AUTO,
    Binding,
    Catalog,
    Fact,
    Kind,
    Locality,
    Model,
    Provider,
    Source,
    locality_of,
)
from router.errors import LocalityUnknown, Refused, SignalboxError

_KEPT_LOCAL = "is remote, and local_only is set"
_KEPT_UNKNOWN = "may be remote: its provider has not said yet, and local_only is set"
_KEPT = (_KEPT_LOCAL, _KEPT_UNKNOWN)


@dataclass(frozen=True, slots=True)
class Route:
    """One resolved way to serve one requirement. `capability` is the binding that offers it.

    `enforce` is that of the binding, where it was what led here and a schema is asked for.
    """

    provider: Provider
    model: Model
    capability: Capability
    reason: str
    shims: tuple[str, ...] = ()
    enforce: Enforce = Enforce.OFF

    @property
    def locality(self) -> Locality | None:
        """Where the prompt ends up; None where the provider has not said."""
        return locality_of(self.provider, self.model)


@dataclass(frozen=True, slots=True)
class Candidate:
    """One model that was considered, whether it was kept, and why."""

    model: str
    kept: bool
    why: str
    facts: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Decision:
    """All that resolving found: the candidates, the routes in order, or the refusal."""

    requirement: Requirement
    candidates: tuple[Candidate, ...]
    routes: tuple[Route, ...]
    error: Refused | None = None


@dataclass(frozen=True, slots=True)
class _Choice:
    """What the client's name for a model stands for: the models to consider, and on whose word."""

    models: tuple[Model, ...]
    capability: Capability
    reason: str
    binding: Binding | None = None


def resolve(requirement: Requirement, catalog: Catalog) -> tuple[Route, ...]:
    """Return the routes to try, in order; never an empty tuple.

    Raises Refused with the code that says why no route can serve the requirement.
    """
    decision = decide(requirement, catalog)
    if decision.error is not None:
        raise decision.error
    return decision.routes


def decide(requirement: Requirement, catalog: Catalog) -> Decision:
    """Return the whole decision, the refusal included; `resolve` and `explain` are both this."""
    try:
        choices = _choices(requirement, catalog)
    except Refused as refusal:
        return Decision(requirement, (), (), refusal)
    candidates: list[Candidate] = []
    kept_away: dict[str, str] = {}
    for choice in choices:
        judged = [(model, _judge(model, choice, requirement, catalog)) for model in choice.models]
        fit = [model for model, candidate in judged if candidate.kept]
        routes, away = _routes(fit, choice, requirement, catalog)
        candidates += [
            replace(candidate, kept=False, why=away[model.name])
            if candidate.kept and model.name in away
            else candidate
            for model, candidate in judged
        ]
        if routes:
            return Decision(requirement, tuple(candidates), routes)
        kept_away |= {model.name: why for model in fit if (why := away[model.name]) in _KEPT}
    error = _stays_here(kept_away) if kept_away else _mismatch(requirement, candidates)
    return Decision(requirement, tuple(candidates), (), error)


def without(decision: Decision, failures: Mapping[str, SignalboxError]) -> Decision:
    """Return a decision less the routes to these models, each of which is told why."""
    if not failures:
        return decision
    candidates = [
        replace(each, kept=False, why=failures[each.model].message)
        if each.kept and each.model in failures
        else each
        for each in decision.candidates
    ]
    routes = tuple(route for route in decision.routes if route.model.name not in failures)
    # As by request: of several reasons, the first route's.
    first = next(iter(failures.values()))
    error = decision.error if routes else Refused(first.code, first.message)
    return replace(decision, candidates=tuple(candidates), routes=routes, error=error)


def _choices(requirement: Requirement, catalog: Catalog) -> Iterable[_Choice]:
    """Return the groups of models to consider, in order: the first with a fit one serves.

    The forms of a model's name are tried in this order: `auto`, a capability, an alias,
    `provider/model`, a model's own id.
    """
    name = requirement.model
    alias = catalog.alias(name)
    if alias is not None:
        name = alias.to
    if name is None or name == AUTO:
        return _by_need(requirement, catalog)
    if name in set(Capability):
        return [_by_capability(Capability(name), catalog)]
    return [_by_model(name, requirement, catalog)]


def _by_need(requirement: Requirement, catalog: Catalog) -> list[_Choice]:
    choices = [
        _Choice(
            models=catalog.bound(capability),
            capability=capability,
            reason=f"auto: needs {capability}",
            binding=catalog.bindings[capability],
        )
        for capability in requirement.levers
        if catalog.bound(capability)
    ]
    if not choices:
        raise _not_assigned(requirement.levers, catalog)
    return choices


def _by_capability(capability: Capability, catalog: Catalog) -> _Choice:
    models = catalog.bound(capability)
    if not models:
        raise _not_assigned((capability,), catalog)
    return _Choice(
        models=models,
        capability=capability,
        reason=f"capability {capability} named",
        binding=catalog.bindings[capability],
    )


def _by_model(name: str, requirement: Requirement, catalog: Catalog) -> _Choice:
    model = catalog.model(name) or catalog.by_id(name)
    if model is None:
        raise _unknown_model(name, catalog)
    provider = catalog.providers[model.provider]
    if (
        provider.kind is Kind.BUILTIN
        and provider.serves(requirement.dialect)
        and not catalog.points_at(provider.name)
    ):
        raise Refused(
            "backend_not_assigned",
            f"{model.name} is served by the builtin backend, which runs only while a capability "
            f"points at it. Assign it first: signalbox capabilities assign text {model.name}",
            param="model",
        )
    return _Choice(models=(model,), capability=requirement.levers[0], reason="model named")


def _judge(model: Model, choice: _Choice, requirement: Requirement, catalog: Catalog) -> Candidate:
    """Decide whether a model may serve: its provider can be asked, and no fact is against it."""
    provider = catalog.providers[model.provider]
    if not provider.serves(requirement.dialect):
        return Candidate(model.name, kept=False, why=_unspoken(provider, requirement), facts={})
    facts = {need: _fact(model, need, choice, catalog) for need in requirement.needs}
    told = {
        need: "unknown" if fact is None else f"{str(fact.value).lower()} ({fact.source})"
        for need, fact in facts.items()
    }
    lacking = [need for need, fact in facts.items() if fact is not None and not fact.value]
    # An input that no lever stands for is never sent on a guess.
    untold = [str(kind) for kind in requirement.inputs if facts[kind] is None]
    why = f"lacks {', '.join(lacking)}" if lacking else _untold(model, untold) if untold else ""
    if why:
        return Candidate(model.name, kept=False, why=why, facts=told)
    return Candidate(model.name, kept=True, why=choice.reason, facts=told)


def _untold(model: Model, kinds: Sequence[str]) -> str:
    said = ", ".join(f"{kind}: true" for kind in kinds)
    return (
        f"is not known to take {', '.join(kinds)}; if it does, say so in router.yaml, under "
        f"models.{model.name}: capabilities: {{{said}}}"
    )


def _unspoken(provider: Provider, requirement: Requirement) -> str:
    if provider.kind is Kind.BUILTIN:
        return f"has no {requirement.path}: the builtin backend serves conversations only"
    if provider.kind is Kind.LITELLM:
        return f"has no {requirement.path}: LiteLLM translates conversations only"
    return (
        f"is at {provider.name}, which is not said to have {requirement.path} or chat completions "
        f"(providers.{provider.name}.dialects in router.yaml)"
    )


def _fact(model: Model, need: str, choice: _Choice, catalog: Catalog) -> Fact | None:
    """Return what is known where the choice itself is an assignment's word."""
    fact = model.facts.get(need)
    if need == choice.capability and choice.binding is not None and not _said_by_user(fact):
        return Fact(value=True, source=Source.ASSIGNMENT)
    return known_fact(model, need, catalog)


def known_fact(model: Model, need: str, catalog: Catalog) -> Fact | None:
    """Return what is known: the user's word, else the assignment's, else what was told."""
    fact = model.facts.get(need)
    if _said_by_user(fact) or not catalog.is_assigned(model, need):
        return fact
    return Fact(value=True, source=Source.ASSIGNMENT)


def _said_by_user(fact: Fact | None) -> bool:
    return fact is not None and fact.source is Source.USER


def _routes(
    fit: Collection[Model], choice: _Choice, requirement: Requirement, catalog: Catalog
) -> tuple[tuple[Route, ...], dict[str, str]]:
    """Return the routes that locality allows, in order, and why each other model is kept away."""
    binding = choice.binding
    # By whatever name the model came: each need brings its own binding's prohibition along.
    local_only = requirement.local_only or catalog.stays_local(
        (choice.capability, *requirement.levers)
    )
    remote_fallback = binding is not None and binding.allow_remote_fallback
    # Passing over a local model, for whatever reason, is falling back from it.
    behind_local = False
    behind_absent = {} if binding is None else catalog.behind_absent(choice.capability)
    enforce = Enforce.OFF
    if binding is not None and Capability.STRUCTURED_OUTPUT in requirement.levers:
        enforce = binding.enforce
    routes: list[Route] = []
    away: dict[str, str] = {}
    for model in choice.models:
        provider = catalog.providers[model.provider]
        locality = locality_of(provider, model)
        if locality is Locality.LOCAL:
            behind_local = True
        elif local_only:
            away[model.name] = _KEPT_UNKNOWN if locality is None else _KEPT_LOCAL
            continue
        elif behind_local and not remote_fallback:
            may_be = "is" if locality is Locality.REMOTE else "may be"
            away[model.name] = f"{may_be} remote, and remote fallback is not allowed here"
            continue
        elif model.name in behind_absent and not remote_fallback:
            absent = behind_absent[model.name]
            away[model.name] = f"is remote, {absent} before it is gone, and remote fallback is off"
            continue
        elif locality is None:
            # Whichever it turns out to be, what comes after it must not be more than a fallback.
            behind_local = True
        if model in fit:
            shims = _shims(provider, requirement)
            route = Route(provider, model, choice.capability, choice.reason, shims, enforce)
            routes.append(route)
    return tuple(routes), away


def _shims(provider: Provider, requirement: Requirement) -> tuple[str, ...]:
    """Return what a request goes through on its way to a provider, whatever it says."""
    shims = []
    if provider.needs_translation(requirement.dialect):
        shims.append(f"{requirement.dialect}_to_chat")
    if provider.kind is Kind.LITELLM:
        shims.append("litellm")
    return tuple(shims)


def _stays_here(kept_away: Mapping[str, str]) -> Refused:
    unknown = [name for name, why in kept_away.items() if why is _KEPT_UNKNOWN]
    if unknown:
        providers = tuple(dict.fromkeys(name.partition("/")[0] for name in unknown))
        return LocalityUnknown(
            f"local_only is set, and {' and '.join(providers)} has not told of "
            f"{', '.join(unknown)} whether its prompts stay on this machine: its list of models "
            "could not be read, or does not name it. Start it, fetch the model, or assign another.",
            providers,
        )
    return Refused(
        "remote_not_allowed",
        f"Only remote models could serve this request ({', '.join(kept_away)}), and local_only is "
        "set. Assign a local model or lift local_only.",
        param="model",
    )


def _not_assigned(levers: Iterable[Capability], catalog: Catalog) -> Refused:
    names = " or ".join(levers)
    first = next(iter(levers))
    bindings = [catalog.bindings[lever] for lever in levers if lever in catalog.bindings]
    dangling = [model for binding in bindings for model in binding.models]
    problem = (
        f"{names} is assigned to {', '.join(dangling)}, but no provider here has that: it was "
        "removed, or is left out at present, and `signalbox providers` says why."
        if dangling
        else f"No model is assigned to {names}."
    )
    return Refused(
        "capability_not_assigned",
        f"{problem} Assign one: signalbox capabilities assign {first} PROVIDER/MODEL",
        param="model",
    )


def _unknown_model(name: str, catalog: Catalog) -> Refused:
    provider = name.partition("/")[0]
    if provider in catalog.left_out:
        return Refused(
            "model_not_found",
            f"There is no model {name[:200]!r} at present: provider {provider} is left out, and "
            "`signalbox providers` says why.",
            param="model",
        )
    near = catalog.like(name)
    hint = f"Did you mean {' or '.join(near)}?" if near else "GET /v1/models lists what there is."
    return Refused("model_not_found", f"There is no model {name[:200]!r}. {hint}", param="model")


def _mismatch(requirement: Requirement, candidates: Iterable[Candidate]) -> Refused:
    lacks = "; ".join(f"{candidate.model} {candidate.why}" for candidate in candidates)
    return Refused(
        "capability_mismatch",
        f"This request needs {', '.join(requirement.needs)}, and no model that it may use can do "
        f"that: {lacks}.",
        param="model",
    )
