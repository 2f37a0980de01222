"""A certificate authority of the tests' own: who trusts its file trusts the scripted providers."""

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import trustme

from router.upstream.tls import AiohttpUpstream
from router.upstream.trust import context_for

# For clients that speak plain HTTP: a context of their own would read the platform's authorities,
# which takes 50 ms of work.
NO_AUTHORITIES: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


@dataclass(frozen=True)
class Authority:
    """An authority: `file` is its certificate in PEM form."""

    file: Path
    issuer: trustme.CA

    def server(self, *names: str) -> ssl.SSLContext:
        """Return what a server needs to be known under these names, this machine's by default."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.issuer.issue_cert(*(names or ("127.0.0.1", "localhost"))).configure_cert(context)
        return context


def over_tls(provider: str, connect_s: float, **options: Any) -> AiohttpUpstream:
    """Return a provider's upstream, which believes a `ca_file` besides the platform."""
    trust = context_for(options.pop("ca_file", None))
    return AiohttpUpstream(provider, connect_s, trust=trust, **options)


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Return the authority of this run."""
    issuer = trustme.CA()
    file = tmp_path_factory.mktemp("authority") / "authority.pem"
    issuer.cert_pem.write_to_path(str(file))
    return Authority(file, issuer)


@pytest.fixture(scope="session")
def _nobodys_authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("nobody") / "authority.pem"
    trustme.CA().cert_pem.write_to_path(str(file))
    return file


@pytest.fixture
def small_platform(_nobodys_authority: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the platform trust one authority, which nobody uses: all of them are slow to read."""
    monkeypatch.setenv("SSL_CERT_FILE", str(_nobodys_authority))


@pytest.fixture(params=["http", "https"])
def tls(
    request: pytest.FixtureRequest, authority: Authority, small_platform: None
) -> Authority | None:
    """Run the test with providers over plain HTTP, None, and with providers over TLS."""
    return authority if request.param == "https" else None
