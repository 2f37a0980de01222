from pathlib import Path

import pytest

from router.settings import SettingsError, load
from router.settings.values import authority, own_names


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("127.0.0.2", "127.0.0.2"),
        ("Box.lan", "box.lan"),
        ("FD00:0:0::1", "[fd00::1]"),
        ("[fd00::1]", "[fd00::1]"),
        ("fe80::1%eth0", "[fe80::1]"),
        ("::ffff:10.0.0.1", "[::ffff:a00:1]"),
    ],
)
def test_an_address_is_named_as_a_host_header_names_it(host: str, name: str) -> None:
    """Small letters, IPv6 in brackets and in its shortest form, without a zone."""
    assert authority(host) == name
    assert own_names(host) == {name}


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "0:0::0"])  # noqa: S104 not bound
def test_all_addresses_are_no_name(host: str) -> None:
    """Who listens everywhere is called by names that are listed."""
    assert own_names(host) == frozenset()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[
            ("allowed_hosts", value)
            for value in ("box.lan:60315", "http://box.lan", "*", "*.lan", "", "b x", "[::1]:1")
        ],
        *[
            ("allowed_origins", value)
            for value in (
                *("https://chat.example/", "https://chat.example/x", "chat.example", "*"),
                *("https://*.example", "HTTPS://chat.example", "https://Chat.example", ""),
                *("https://a@chat.example", "https://chat.example?x", "https://chat example"),
            )
        ],
    ],
)
def test_what_could_never_match_is_refused(key: str, value: str, tmp_path: Path) -> None:
    """An entry that no browser and no client would ever send says what is due instead."""
    config = tmp_path / "router.yaml"
    config.write_text(f"server: {{{key}: ['{value}']}}", encoding="utf-8")
    with pytest.raises(SettingsError, match=f"server.{key}.*is due here"):
        load(config, {}, {"HOME": str(tmp_path)})
