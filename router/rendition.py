"""A request as one provider is to get it: in a protocol that it has, less what it cannot take."""

import time
from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from router.body import JsonBody
from router.dialects.translation import Translate, Translation
from router.enforcement import Finding, asked_again
from router.errors import Refused, RouteFailed
from router.form import FormBody
from router.shims import Shim, change_of


class Rendition(msgspec.Struct, frozen=True):
    """The `body` but for its model; what puts the answer back, and the shims that have acted.

    `asked` are the fields before those did.
    """

    body: JsonBody | FormBody
    asked: Mapping[str, Any]
    translation: Translation | None = None
    shims: tuple[Shim, ...] = ()

    def again(self, finding: Finding) -> "Rendition":
        """Return the request that shows a chat's answer again, and what is wrong with it."""
        if not isinstance(self.body, JsonBody):
            return self
        return msgspec.structs.replace(self, body=asked_again(self.body, finding))


def rendition(
    body: JsonBody | FormBody,
    translate: Translate | None,
    shims: Collection[Shim],
    request_id: str,
    *,
    is_local: bool,
) -> Rendition:
    """Return a client's request as a provider of these shims gets it, as a chat by `translate`.

    One that `is_local` is told what servers of local models know, and others refuse. Raises
    RouteFailed for what no chat can say: the next provider may have the dialect itself.
    """
    translation = None
    if translate is not None:
        translation = _as_chat(translate, body.fields, request_id)
        chat = {**translation.hints, **translation.chat} if is_local else translation.chat
        body = JsonBody(chat, chat)
    asked = body.fields
    if shims and isinstance(body, JsonBody) and (change := change_of(asked, shims)):
        body = body.changed(change.fields, change.without)
        return Rendition(body, asked, translation, change.shims)
    return Rendition(body, asked, translation)


def _as_chat(translate: Translate, fields: Mapping[str, Any], request_id: str) -> Translation:
    try:
        return translate(fields, request_id=request_id, now=int(time.time()))
    except Refused as error:
        raise RouteFailed(error.code, error.message, param=error.param, quotes=True) from None
