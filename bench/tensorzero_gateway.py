"""TensorZero's gateway as a process: `python -m bench.tensorzero_gateway CONFIG PORT_FILE`.

Runs in the environment that holds the package `tensorzero`. The gateway chooses its port itself;
it is written to PORT_FILE once it listens.
"""

import signal
import sys
from pathlib import Path
from urllib.parse import urlsplit

import tensorzero


def serve(config: Path, told: Path) -> None:
    """Serve until a signal ends this process."""
    # Semi-private: the same start that the package's patch of the OpenAI client uses.
    gateway = tensorzero._start_http_gateway(  # noqa: SLF001 no public name starts it alone
        config_file=str(config),
        clickhouse_url=None,
        postgres_url=None,
        valkey_url=None,
        async_setup=False,
    )
    part = told.with_suffix(".part")
    part.write_text(str(urlsplit(gateway.base_url).port), encoding="utf-8")
    # Whole or not at all: somebody waits for the file.
    part.rename(told)
    signal.pause()


if __name__ == "__main__":
    serve(Path(sys.argv[1]), Path(sys.argv[2]))
