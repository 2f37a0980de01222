"""The control plane: the map, the processes and the builtin models, as an API under /admin."""
