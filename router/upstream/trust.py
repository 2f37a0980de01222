"""Whose certificates are believed: the platform's authorities, and those of a file besides."""

import os
import ssl
import sys
from pathlib import Path

if sys.platform == "darwin" or sys.platform == "win32":
    import truststore

# Where distributions keep their authorities, for a Python whose OpenSSL looks in another place.
_BUNDLES = (
    "/etc/ssl/cert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/cert.pem",
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/ssl/ca-bundle.pem",
)


class CaFileError(Exception):
    """A file of certificate authorities that cannot be used, and why."""


def context_for(ca_file: Path | None) -> ssl.SSLContext:
    """Return the platform's trust, and that of `ca_file` with it; blocks for tens of milliseconds.

    Raises CaFileError.
    """
    context = _platform()
    context.set_alpn_protocols(["http/1.1"])
    if ca_file is not None:
        try:
            context.load_verify_locations(cafile=ca_file)
        except ssl.SSLError as error:
            raise CaFileError(f"{ca_file} holds no certificate in PEM form") from error
        except OSError as error:
            raise CaFileError(f"{ca_file} cannot be read: {error.strerror}") from error
    return context


def _platform() -> ssl.SSLContext:
    if sys.platform == "darwin" or sys.platform == "win32":
        # There trust is a service of the system, which is asked for each certificate.
        return truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    places = ssl.get_default_verify_paths()
    # A bundle takes tens of milliseconds to read: once and here, not for each handshake.
    has_folder = places.capath is not None and any(Path(places.capath).iterdir())
    if places.cafile is not None or has_folder:
        context.set_default_verify_paths()
    else:
        for bundle in filter(os.path.isfile, _BUNDLES):
            context.load_verify_locations(cafile=bundle)
            break
    return context
