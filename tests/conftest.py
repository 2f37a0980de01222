"""What every test has: the plugins of tests/harness."""

pytest_plugins = ["tests.harness.skips"]
