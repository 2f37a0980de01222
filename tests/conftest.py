"""What every test has: the plugins of tests/harness."""

import signal

from hypothesis import HealthCheck, settings

pytest_plugins = [
    "tests.harness.authority",
    "tests.harness.invariants",
    "tests.harness.loops",
    "tests.harness.models",
    "tests.harness.real_providers",
    "tests.harness.skips",
    "tests.harness.translating",
]

# A shared machine with two cores says nothing by being slow.
settings.register_profile("signalbox", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("signalbox")

# A shell that starts the tests in the background has SIGINT ignored, in all that they start too.
signal.signal(signal.SIGINT, signal.default_int_handler)
