"""Whether a model may be assigned to a capability, or why not."""

from collections.abc import Collection, Mapping

from router.capabilities import FAMILIES, Capability
from router.catalog import Catalog, Kind, Provider, Source
from router.errors import Refused
from router.learned import Learned


def check_listed(
    name: str, declared: Collection[str], learned: Learned, providers: Mapping[str, Provider]
) -> None:
    """Refuse `model_not_found` a model that its provider does not list, unless it was declared."""
    if name in declared:
        return
    if learned.lacks(name, providers):
        provider = name.partition("/")[0]
        raise Refused(
            "model_not_found",
            f"{provider} lists no model {name.partition('/')[2]!r}. Where it has it all the "
            f"same, say so in router.yaml: models: {{{name}: {{}}}}",
            param="models",
        )


def check_assignable(capability: Capability, name: str, catalog: Catalog) -> None:
    """Refuse a model that nobody has, and one that is known not to serve the capability.

    Raises Refused `model_not_found` or `capability_mismatch`.
    """
    # A name is told in headers and logs, where a control character would end a line.
    model = catalog.model(name) if name.isprintable() else None
    if model is None:
        meant = catalog.by_id(name)
        here = f"The providers here are {', '.join(catalog.providers) or 'none'}."
        raise Refused(
            "model_not_found",
            f"No provider knows {name[:200]!r}. Models are named provider/model. "
            f"{here if meant is None else f'Is {meant.name} meant?'}",
            param="models",
        )
    if capability in FAMILIES and catalog.providers[model.provider].kind is Kind.BUILTIN:
        raise Refused(
            "capability_mismatch",
            f"The builtin backend serves chat only: {name} cannot serve {capability}. "
            "Assign a model of another provider.",
            param="models",
        )
    fact = model.facts.get(capability)
    if fact is not None and fact.source is Source.USER and not fact.value:
        raise Refused(
            "capability_mismatch",
            f"models.{name}.capabilities.{capability} is false in the configuration file. "
            "Change it there first.",
            param="models",
        )
