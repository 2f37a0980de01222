pytest_plugins = ["tests.harness.models"]
