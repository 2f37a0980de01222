"""llama.cpp's own server as a process: `llama_server.py FOLDER MODEL PORT [TEMPLATE]`.

FOLDER holds the package that carries the server, MODEL is a GGUF file. It serves on loopback as
`llama-server -m MODEL --port PORT --jinja --slots --metrics -np 2 -c 4096` would, with
`--chat-template TEMPLATE` where one is given, until its stdin ends.
"""

import importlib
import sys

# For each of its two slots half of it.
CONTEXT = 4096


def main(folder: str, model: str, port: str, template: str = "") -> None:
    """Serve until stdin ends, which it does at the latest with the process that holds it."""
    sys.path.insert(0, folder)
    library = importlib.import_module("xllamacpp")
    params = library.CommonParams()
    params.model.path = model
    params.model_alias = {"smollm2"}
    params.hostnames = ["127.0.0.1"]
    params.port = int(port)
    params.n_ctx = CONTEXT
    params.n_parallel = 2
    # Its threads spin while they wait for each other: on a machine with other work, two are a
    # hundred times slower than one.
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.use_jinja = True
    params.chat_template = template
    params.endpoint_slots = params.endpoint_metrics = True
    params.offline = True
    server = library.Server(params)
    sys.stdin.read()
    del server


if __name__ == "__main__":
    main(*sys.argv[1:])
