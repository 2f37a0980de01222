"""OpenAI's responses protocol over chat completions.

After the published schema: https://developers.openai.com/api/reference/resources/responses
"""

from collections.abc import Mapping
from typing import Any

from router.dialects.responses.exchange import Exchange
from router.dialects.responses.request import read_request
from router.dialects.translation import Translation


def translate(fields: Mapping[str, Any], *, request_id: str, now: int) -> Translation:
    """Return a request as a chat completion, with the way back for its answer.

    `fields` is the body, `request_id` what ids are made of, `now` in Unix seconds. Raises Refused
    `unsupported_parameter` for what no chat completion can say, `invalid_request` for what is
    malformed.
    """
    return Exchange(read_request(fields), request_id=request_id, now=now)
