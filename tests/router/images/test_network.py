"""The networks of this machine."""

from ipaddress import ip_address, ip_network

import pytest

from router.images.network import _network, own_networks


@pytest.mark.parametrize(
    ("address", "netmask", "network"),
    [
        ("8.8.8.8", "255.255.255.0", "8.8.8.0/24"),
        ("8.8.8.8", None, "8.8.8.8/32"),
        ("2001:4860::8888", "ffff:ffff:ffff:ffff::", "2001:4860::/64"),
        # Tunnels to half of the internet, or all of it.
        ("8.8.8.8", "128.0.0.0", "8.8.8.8/32"),
        ("2001:4860::8888", "::", "2001:4860::8888/128"),
        ("2001:4860::8888", "e000::", "2001:4860::8888/128"),
    ],
)
def test_neighbours_are_of_our_network(address: str, netmask: str | None, network: str) -> None:
    """As far as the interface says that they are neighbours."""
    assert _network(ip_address(address), netmask) == ip_network(network)


def test_this_machine_knows_itself() -> None:
    """Whatever else it is connected to."""
    own = own_networks()
    assert any(ip_address("127.0.0.1") in each for each in own)
