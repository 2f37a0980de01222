"""What is remembered for requirements, and for how long."""

from dataclasses import replace

from router import plan
from router.breaker import Breaker
from router.capabilities import Capability, Requirement
from router.catalog import Binding, Catalog, Kind, Locality, Model, Provider
from router.deadline import Deadlines
from router.endpoints import ENDPOINTS
from router.plan import Plans
from router.reach import Reach
from router.upstream.plain import PlainUpstream

_PROVIDER = Provider("a", Kind.OPENAI, "http://127.0.0.1:9/v1", Locality.LOCAL, "sk-1")


def _catalog(*models: str) -> Catalog:
    return Catalog(
        providers={"a": _PROVIDER},
        models={f"a/{name}": Model("a", name) for name in models},
        bindings={Capability.TEXT: Binding(Capability.TEXT, (f"a/{models[0]}",))},
    )


def _reach() -> Reach:
    breaker = Breaker("a", failures=5, open_s=30, emit=print)
    return Reach(PlainUpstream("a", connect_s=1), Deadlines(1, 1, 1), breaker)


def _need(model: str | None = None) -> Requirement:
    return Requirement((Capability.TEXT,), model=model)


async def test_a_plan_is_remembered_until_the_catalog_is_another() -> None:
    """The same requirement gets the same plan; a new catalog, and its keys, count at once."""
    now = [_catalog("m")]
    reach = _reach()
    plans = Plans(lambda: now[0], {"a": reach})
    first = plans.plan(_need())
    assert plans.plan(_need()) is first
    now[0] = replace(_catalog("n"), providers={"a": replace(_PROVIDER, api_key="sk-2")})
    (second,) = plans.plan(_need())
    assert second.route.model.id == "n"
    assert (b"authorization", b"Bearer sk-2") in second.sent
    assert (b"authorization", b"Bearer sk-1") in first[0].sent


async def test_who_names_many_models_does_not_end_the_remembering() -> None:
    """What is held is bounded, and whoever comes after the flood is remembered again."""
    reach = _reach()
    catalog = _catalog("m")
    plans = Plans(lambda: catalog, {"a": reach})
    for number in range(plan._MAX_KNOWN * 2 + 7):
        plans.plan(_need(f"a/any-{number}"))
        assert len(plans._known) <= plan._MAX_KNOWN
    assert plans.plan(_need()) is plans.plan(_need())


async def test_a_form_brings_the_type_that_names_its_boundary() -> None:
    """No other one stands beside it; every other request is JSON."""
    catalog = _catalog("m")
    plans = Plans(lambda: catalog, {"a": _reach()})

    def types(path: str) -> list[bytes]:
        asked = ENDPOINTS[path].requirement({"model": "a/m"}, max_images=0)
        (made,) = plans.plan(asked)
        return [value for name, value in made.sent if name == b"content-type"]

    assert types("/v1/audio/transcriptions") == []
    assert types("/v1/audio/speech") == [b"application/json"]
