"""Errors in the words of each protocol."""

import json

from router.capabilities import Dialect
from router.envelope import error_body, error_frame, error_reply
from router.errors import Refused

ERROR = Refused("queue_full", "later", param="model")
TOLD = {"message": "later", "type": "rate_limit_error", "param": "model", "code": "queue_full"}


def test_anthropics_sdk_finds_its_type_and_openais_none() -> None:
    """The envelope differs by one field."""
    assert json.loads(error_body(ERROR, None)) == {"error": TOLD}
    assert json.loads(error_body(ERROR, Dialect.RESPONSES)) == {"error": TOLD}
    reply = error_reply(ERROR, Dialect.MESSAGES)
    assert (reply.status, json.loads(reply.body)) == (429, {"type": "error", "error": TOLD})


def test_a_frame_is_an_event_of_its_stream() -> None:
    """One that the protocol's SDK raises."""
    assert error_frame(ERROR, None) == b"data: " + error_body(ERROR, None) + b"\n\n"
    name, data = error_frame(ERROR, Dialect.MESSAGES).removesuffix(b"\n\n").split(b"\n")
    assert name == b"event: error"
    assert json.loads(data.removeprefix(b"data: ")) == {"type": "error", "error": TOLD}
    name, data = error_frame(ERROR, Dialect.RESPONSES, 7).removesuffix(b"\n\n").split(b"\n")
    assert name == b"event: error"
    told = json.loads(data.removeprefix(b"data: "))
    assert told["error"] == TOLD
    assert (told["type"], told["sequence_number"]) == ("error", 7)
    assert (told["code"], told["message"], told["param"]) == ("queue_full", "later", "model")
