from itertools import combinations

from tests.harness.served import first_port


def test_workers_do_not_give_the_same_ports() -> None:
    """Processes that are started together look for free ports far from each other."""
    for together in (range(7, 15), range(995, 1003), range(32_764, 32_772)):
        ports = [first_port(pid) for pid in together]
        assert all(20_000 <= port < 30_000 for port in ports)
        assert all(abs(one - other) > 20 for one, other in combinations(ports, 2))
