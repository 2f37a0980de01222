"""A provider's chat completion put back into the protocol that the client speaks."""

import msgspec

from router.answer import OpenBytes, OpenStream
from router.dialects.translation import Translation
from router.errors import Reply, RouteFailed, StreamFailed

_OK = 200
_DECODER = msgspec.json.Decoder()
_ENCODER = msgspec.json.Encoder()


def put_back(
    opened: Reply | OpenStream | OpenBytes, translation: Translation, provider: str
) -> Reply | OpenStream | OpenBytes:
    """Return an answer in the client's protocol: a whole one, or a stream at its beginning.

    Raises RouteFailed `upstream_invalid_response` for one that no chat completion may be. An error
    is in the client's protocol already.
    """
    try:
        if isinstance(opened, OpenStream):
            return _begun(opened, translation)
        if isinstance(opened, Reply) and opened.status == _OK:
            told = _ENCODER.encode(translation.answer(_DECODER.decode(opened.body)))
            return Reply(opened.status, opened.headers, told, opened.usage)
    except StreamFailed as error:
        raise RouteFailed(
            "upstream_invalid_response", f"{provider} answered with no chat completion: {error}"
        ) from None
    return opened


def _begun(stream: OpenStream, translation: Translation) -> OpenStream:
    """Return a stream whose first event is what its first chunk means to the client."""
    first = b"" if stream.state.chunk is None else translation.feed(stream.state.chunk)
    return OpenStream(
        stream.answer,
        stream.headers,
        (first,),
        stream.pending,
        stream.splitter,
        stream.state,
        stream.dialect,
        translation,
    )
