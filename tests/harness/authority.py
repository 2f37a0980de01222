"""A certificate authority of the tests' own: who trusts its file trusts the scripted providers."""

import ssl
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme


@dataclass(frozen=True)
class Authority:
    """An authority: `file` is its certificate in PEM form."""

    file: Path
    issuer: trustme.CA

    def server(self, *names: str) -> ssl.SSLContext:
        """Return what a server needs to be known under these names, this machine's by default."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.issuer.issue_cert(*(names or ("127.0.0.1", "localhost"))).configure_cert(context)
        return context


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Return the authority of this run."""
    issuer = trustme.CA()
    file = tmp_path_factory.mktemp("authority") / "authority.pem"
    issuer.cert_pem.write_to_path(str(file))
    return Authority(file, issuer)


@pytest.fixture(params=["http", "https"])
def tls(request: pytest.FixtureRequest, authority: Authority) -> Authority | None:
    """Run the test with providers over plain HTTP, None, and with providers over TLS."""
    return authority if request.param == "https" else None
