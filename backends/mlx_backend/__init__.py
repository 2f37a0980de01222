"""The builtin backend: a process of its own that alone owns the GPU context."""
