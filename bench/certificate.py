"""A certificate of this machine's own for the upstream over TLS, made anew for every run."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.machine import MissingTool

_HOST: Final = "localhost"


@dataclass(frozen=True, slots=True)
class Certificate:
    """The files of a certificate that vouches for itself, and the name it is made out to."""

    certificate: Path
    key: Path
    host: str = _HOST


def make_certificate(folder: Path) -> Certificate:
    """Make a certificate for this machine's loopback; MissingTool when openssl cannot."""
    program = shutil.which("openssl")
    if program is None:
        raise MissingTool("openssl not found: no upstream over TLS without a certificate")
    made = Certificate(folder / "certificate.pem", folder / "key.pem")
    command = [program, "req", "-x509", "-nodes", "-days", "2", "-subj", f"/CN={_HOST}"]
    command += ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    # Newer Pythons trust no authority that does not say what its key is for.
    command += ["-addext", "keyUsage=critical,digitalSignature,keyCertSign"]
    command += ["-addext", f"subjectAltName=DNS:{_HOST},IP:127.0.0.1"]
    command += ["-out", str(made.certificate), "-keyout", str(made.key)]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if said.returncode:
        raise MissingTool(f"openssl made no certificate: {said.stderr.strip()[-300:]}")
    return made
