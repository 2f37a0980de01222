"""The tree of errors and what each one looks like on the wire."""

import json

import pytest

from backends.wire import CODES, Priority, envelope
from router.errors import Refused, RouteFailed, SignalboxError


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("invalid_json", 400, "invalid_request_error"),
        ("invalid_api_key", 401, "authentication_error"),
        ("origin_not_allowed", 403, "permission_error"),
        ("model_not_found", 404, "invalid_request_error"),
        ("model_not_downloaded", 404, "model_not_found"),
        ("queue_full", 429, "rate_limit_error"),
        ("generation_failed", 500, "internal_server_error"),
        ("upstream_reset", 502, "server_error"),
        ("backend_failed", 503, "server_error"),
        ("upstream_timeout", 504, "server_error"),
        ("upstream_truncated", 502, "server_error"),
    ],
)
def test_codes_have_their_status_and_type(code: str, status: int, kind: str) -> None:
    """Every code says its status and OpenAI type, the three older ones their own."""
    assert (CODES[code].status, CODES[code].type) == (status, kind)


def test_an_error_body_is_openais_envelope() -> None:
    """The body holds message, type, param and code and nothing else."""
    error = Refused("model_not_found", "no such model", param="model")
    assert json.loads(error.body()) == {
        "error": {
            "message": "no such model",
            "type": "invalid_request_error",
            "param": "model",
            "code": "model_not_found",
        }
    }
    assert json.loads(error.body()) == envelope("model_not_found", "no such model", "model")


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("backend_not_assigned", b"false"),
        ("backend_failed", b"false"),
        ("provider_auth_error", b"false"),
        ("upstream_unreachable", None),
        ("queue_timeout", None),
        ("queue_full", None),
        ("spend_limit_reached", b"false"),
        ("invalid_json", None),
    ],
)
def test_sdks_are_told_not_to_retry_what_a_retry_cannot_help(code: str, told: bytes | None) -> None:
    """What does not pass by itself forbids the retry that SDKs would try on its status."""
    headers = dict(SignalboxError(code, "x").headers())
    assert headers.get(b"x-should-retry") == told
    assert headers[b"x-signalbox-error"] == b"1"


@pytest.mark.parametrize(("seconds", "header"), [(0.2, b"1"), (1.0, b"1"), (7.1, b"8")])
def test_retry_after_is_whole_seconds_and_never_too_early(seconds: float, header: bytes) -> None:
    """Retry-After rounds up and is at least one second."""
    error = RouteFailed("queue_full", "x", retry_after_s=seconds)
    assert dict(error.headers())[b"retry-after"] == header


@pytest.mark.parametrize(
    ("text", "priority"),
    [
        ("1", Priority.HIGH),
        ("high", Priority.HIGH),
        (" LOW ", Priority.LOW),
        ("0", Priority.SYSTEM),
    ],
)
def test_priorities_are_read_by_number_and_name(text: str, priority: Priority) -> None:
    """A priority is spelled as its number or its name."""
    assert Priority.parse(text) is priority


@pytest.mark.parametrize(
    "text", ["", "5", "01", "0010", "-1", "urgent", "1.0", "\u0661", "9" * 5000]
)
def test_other_priorities_are_refused(text: str) -> None:
    """Anything else is a ValueError."""
    with pytest.raises(ValueError, match=r".*"):
        Priority.parse(text)
