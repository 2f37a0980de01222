"""Which addresses are public, in every spelling."""

from ipaddress import IPv4Address, IPv6Address, ip_address
from urllib.parse import urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from yarl import URL

from router.errors import Refused
from router.images.address import address_of, is_public, is_within, public_host


@pytest.mark.parametrize(
    ("address", "public"),
    [
        *((each, True) for each in ("1.1.1.1", "8.8.8.8", "93.184.215.14", "172.32.0.1")),
        *((each, True) for each in ("100.128.0.1", "192.0.1.1", "223.255.255.255", "11.0.0.0")),
        *((each, True) for each in ("2606:4700:4700::1111", "2a00::1", "2001:4860::8888")),
        ("0.0.0.0", False),  # noqa: S104 nobody binds to it
        *((each, False) for each in ("0.1.2.3", "10.255.255.255", "100.64.0.0")),
        *((each, False) for each in ("100.127.255.255", "127.255.255.254", "169.254.169.254")),
        *((each, False) for each in ("172.16.0.0", "172.31.255.255", "192.168.0.1", "192.0.0.192")),
        *((each, False) for each in ("192.0.2.1", "192.88.99.1", "198.19.0.1", "198.51.100.1")),
        *((each, False) for each in ("203.0.113.9", "224.0.0.1", "239.1.1.1", "240.0.0.1")),
        *((each, False) for each in ("255.255.255.255", "168.63.129.16", "100.100.100.200")),
        *((each, False) for each in ("::", "::1", "::ffff:8.8.8.8", "::8.8.8.8", "fe80::1")),
        *((each, False) for each in ("fc00::1", "fd00:ec2::254", "ff02::1", "64:ff9b::808:808")),
        *((each, False) for each in ("64:ff9b:1::1", "2001::1", "2001:db8::1", "2002:808:808::")),
        *(
            (each, False)
            for each in ("100::1", "3fff::1", "5f00::1", "fec0::1", "::ffff:0:8.8.8.8")
        ),
    ],
)
def test_an_address_is_public_or_not(address: str, *, public: bool) -> None:
    """By the registries of special addresses."""
    assert is_public(ip_address(address)) is public


@given(address=st.ip_addresses())
def test_nothing_is_public_that_python_knows_better(address: IPv4Address | IPv6Address) -> None:
    """Its own table is older and in parts more lenient, never stricter."""
    if is_public(address):
        assert address.is_global
        assert not address.is_multicast


@given(inner=st.ip_addresses(v=4))
def test_ipv4_in_the_clothes_of_ipv6_is_never_public(inner: IPv4Address) -> None:
    """Whichever it is: who means it can write it plainly."""
    number = int(inner)
    for whole in (
        number,
        0xFFFF << 32 | number,
        0x64FF9B << 96 | number,
        0x2002 << 112 | number << 80,
        0x20010000 << 96 | number ^ 0xFFFFFFFF,
    ):
        assert not is_public(IPv6Address(whole))


@st.composite
def spelled(draw: st.DrawFn) -> tuple[IPv4Address | IPv6Address, str]:
    """Return an address in one of the spellings that systems know."""
    address = draw(st.ip_addresses(v=4))
    numbers = list(address.packed)
    short = draw(st.integers(1, 4))
    last = int.from_bytes(bytes(numbers[short - 1 :]), "big")
    forms = draw(st.lists(st.sampled_from(["{}", "0x{:x}", "0X{:X}", "0{:o}"]), min_size=4))
    texts = [
        form.format(each) for form, each in zip(forms, [*numbers[: short - 1], last], strict=False)
    ]
    return address, ".".join(texts) + draw(st.sampled_from(["", "."]))


@given(case=spelled())
@example(case=(IPv4Address("127.0.0.1"), "2130706433"))
@example(case=(IPv4Address("127.0.0.1"), "017700000001"))
@example(case=(IPv4Address("127.0.0.1"), "0x7f.1"))
def test_every_spelling_of_an_address_is_that_address(
    case: tuple[IPv4Address | IPv6Address, str],
) -> None:
    """Decimal, octal, hexadecimal, short: what is not public plainly is not so otherwise."""
    address, text = case
    assert is_within(text) is not is_public(address)


@pytest.mark.parametrize(
    ("host", "within"),
    [
        *(
            (each, True)
            for each in ("localhost", "LocalHost", "localhost.", "x.localhost", "[::1]")
        ),
        *((each, True) for each in ("::1", "1.2.3.4.5", "0x", "1.2.3.256", "999999999999", "a.1")),
        *((each, True) for each in ("[::ffff:10.0.0.1]", "[64:ff9b::1]")),
        *((each, False) for each in ("example.com", "1.1.1.1", "16843009", "[2606:4700::1111]")),
        *(
            (each, False)
            for each in ("localhost.example.com", "a1", "1.example", "xn--bcher-kva.de", "")
        ),
    ],
)
def test_a_host_is_within_where_its_spelling_alone_says_so(host: str, *, within: bool) -> None:
    """A name of elsewhere is looked up by who connects."""
    assert is_within(host) is within


_PIECES = st.sampled_from(
    [
        *(
            "http",
            "https",
            "HTTP",
            ":",
            "//",
            "/",
            "\\",
            "@",
            "?",
            "#",
            "%",
            "[",
            "]",
            ".",
            "..",
            "-",
        ),
        *(
            "a",
            "example.com",
            "127.0.0.1",
            "::1",
            "1",
            "80",
            "0",
            " ",
            "\t",
            "\n",
            "%2e",
            "ä",
            "。",
        ),
        *("user", "\x00", "xn--a", "_", "localhost", "&", "=", ";"),
    ]
)


@given(pieces=st.lists(_PIECES, max_size=12), start=st.sampled_from(["http://", "https://", ""]))
@example(pieces=["a", "\\", "@", "127.0.0.1"], start="http://")
@example(pieces=["a", "#", "@", "127.0.0.1"], start="http://")
@example(pieces=["example.com", ":", "80", "/", "@", "127.0.0.1"], start="http://")
def test_no_two_readers_take_an_address_for_different_ones(pieces: list[str], start: str) -> None:
    """What is let through has one host: to us, to the library that fetches, and to Python's own."""
    url = start + "".join(pieces)
    try:
        host = public_host(url)
    except Refused:
        return
    bare = host.strip("[]")
    for parsed in (URL(url, encoded=url.isascii()), URL(url)):
        assert (parsed.raw_host or "").lower() == bare
        assert parsed.user is None
    assert urlsplit(url).hostname == bare
    assert urlsplit(url).port in {None, URL(url).port}


@pytest.mark.parametrize("url", ["http://example.com/" + "a" * 8192, "http://1.1.1.1:99999/"])
def test_an_address_has_its_bounds(url: str) -> None:
    """A longer one, or a port that is none, is refused."""
    with pytest.raises(Refused):
        public_host(url)


def test_an_address_with_a_zone_is_one_of_a_link() -> None:
    """The zone is no part of it."""
    assert address_of("fe80::1%eth0") == ip_address("fe80::1")
