"""The router process: data plane, control plane and their pure core."""
