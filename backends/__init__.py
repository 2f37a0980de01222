"""Local model processes: their life, their files, and the builtin MLX backend."""
