"""Which way a picture takes to whom."""

import pytest

from router.capabilities import Capability, Requirement
from router.catalog import Binding, Catalog, Kind, Locality, Model, Provider
from router.classification.pictures import Reference
from router.errors import Refused, RouteFailed
from router.images.rules import Rules
from router.images.way import Way, is_near_us, stays_here, way_of, ways
from router.resolver import Route
from tests.harness.pictures import SHOWN

AWAY = "https://cloud.example/v1"
HERE = Provider("here", Kind.OPENAI, "http://127.0.0.1:1/v1", Locality.LOCAL)
CLOUD = Provider("cloud", Kind.OPENAI, AWAY, Locality.REMOTE)
OPEN = Rules(roots=("/p",), remote_fetch=True, files_to_cloud=True)  # type: ignore[arg-type]
URL, FILE, DATA = f"https://{SHOWN}/a.png", "/p/a.png", "data:image/png;base64,AAAA"


def route(provider: Provider, locality: Locality | None = None) -> Route:
    """Return a route to a model there."""
    return Route(provider, Model(provider.name, "m", locality=locality), Capability.VISION, "named")


def named(text: str, media_type: str | None = None) -> Reference:
    """Return what names a picture so."""
    return Reference(("messages", 0), text, media_type)


@pytest.mark.parametrize(
    ("provider", "near"),
    [
        (HERE, True),
        (CLOUD, False),
        (Provider("mac", Kind.OPENAI, "http://mac.example:1", Locality.LOCAL), True),
        (Provider("relay", Kind.OPENAI, "http://127.0.0.1:4000", Locality.REMOTE), True),
        (Provider("relay", Kind.OPENAI, "http://192.168.1.9:4000/v1", Locality.REMOTE), True),
        (Provider("relay", Kind.OPENAI, "http://[::1]:4000", Locality.REMOTE), True),
        (Provider("relay", Kind.OPENAI, "http://localhost:4000", Locality.REMOTE), True),
        (Provider("ollama", Kind.OLLAMA, AWAY, Locality.REMOTE), True),
        (Provider("litellm", Kind.LITELLM, "", Locality.REMOTE), False),
    ],
)
def test_who_is_near_us_fetches_from_where_we_are(provider: Provider, *, near: bool) -> None:
    """By its kind, on its owner's word, or by its address."""
    assert is_near_us(provider) is near


@pytest.mark.parametrize(
    ("text", "provider", "way"),
    [
        (DATA, HERE, Way.CHECKED),
        ("DATA:whatever", HERE, Way.CHECKED),
        (DATA, CLOUD, Way.AS_IS),
        (URL, HERE, Way.FETCHED),
        (URL.upper(), HERE, Way.FETCHED),
        (URL, CLOUD, Way.AS_IS),
        (FILE, HERE, Way.READ),
        ("file:///p/a.png", HERE, Way.READ),
        (FILE, CLOUD, Way.READ),
        ("what/ever", HERE, Way.READ),
    ],
)
def test_where_all_is_allowed_each_goes_its_way(text: str, provider: Provider, way: Way) -> None:
    """Checked or changed for those here; as it is for a cloud, but for a path."""
    assert way_of(named(text), route(provider), OPEN, stays=False) is way
    assert way.changes is (way in {Way.FETCHED, Way.READ})


def test_base64_that_stands_alone_goes_as_a_data_uri_does() -> None:
    """It is no path."""
    assert way_of(named("AAAA", "image/png"), route(HERE), Rules(), stays=True) is Way.CHECKED
    assert way_of(named("AAAA", ""), route(CLOUD), Rules(), stays=True) is Way.AS_IS


@pytest.mark.parametrize(
    ("text", "provider", "rules", "stays", "code"),
    [
        (URL, HERE, Rules(), False, "image_url_not_allowed"),
        (FILE, HERE, Rules(), False, "image_not_found"),
        (FILE, CLOUD, Rules(), False, "image_not_found"),
        (URL, HERE, OPEN, True, "remote_not_allowed"),
        (FILE, CLOUD, Rules(roots=OPEN.roots), False, "remote_not_allowed"),
    ],
)
def test_what_one_route_may_not_show_another_may(
    text: str, provider: Provider, rules: Rules, *, stays: bool, code: str
) -> None:
    """It is the route that failed, with the picture's place."""
    with pytest.raises(RouteFailed) as caught:
        ways([named(DATA), named(text)], route(provider), rules, stays=stays)
    assert (caught.value.code, caught.value.param) == (code, "messages[0]")


@pytest.mark.parametrize(
    ("text", "rules", "code"),
    [
        ("ftp://picture.example/a", OPEN, "image_url_not_allowed"),
        ("gs://bucket/a.png", OPEN, "image_url_not_allowed"),
        ("http://127.0.0.1/", OPEN, "image_url_not_allowed"),
        ("http://a@picture.example/", OPEN, "image_url_not_allowed"),
    ],
)
@pytest.mark.parametrize("provider", [HERE, CLOUD])
def test_what_no_route_may_show_is_refused(
    text: str, provider: Provider, rules: Rules, code: str
) -> None:
    """Whoever would serve."""
    with pytest.raises(Refused) as caught:
        ways([named(text)], route(provider), rules, stays=False)
    assert (caught.value.code, caught.value.param) == (code, "messages[0]")


@pytest.mark.parametrize("locality", [None, Locality.REMOTE])
def test_a_model_that_may_be_remote_is_shown_no_file(locality: Locality | None) -> None:
    """An Ollama passes on the prompts of some; as long as it has not said, it may be this one's."""
    ollama = Provider("ollama", Kind.OLLAMA, "http://127.0.0.1:11434", Locality.LOCAL)
    rules = Rules(roots=OPEN.roots)
    with pytest.raises(RouteFailed, match="allow_local_files_to_cloud"):
        way_of(named(FILE), route(ollama, locality), rules, stays=False)
    assert way_of(named(FILE), route(ollama, Locality.LOCAL), rules, stays=False) is Way.READ


def test_a_request_stays_by_its_own_word_a_bindings_or_the_files() -> None:
    """Any of its needs brings its binding's prohibition along."""
    there = route(HERE)
    asks = Requirement((Capability.VISION, Capability.TOOL_USE))
    tools = Binding(Capability.TOOL_USE, (), local_only=True)
    assert not stays_here(asks, there, Catalog({}, {}, {}))
    assert stays_here(asks, there, Catalog({}, {}, {}, local_only=True))
    assert stays_here(asks, there, Catalog({}, {}, {Capability.TOOL_USE: tools}))
    own = Requirement((Capability.VISION,), local_only=True)
    assert stays_here(own, there, Catalog({}, {}, {}))
