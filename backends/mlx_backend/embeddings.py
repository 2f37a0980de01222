"""What a model makes of a prompt before its first layer, where its tokens stand, and parts of it.

The models of some families (GLM-4V, GLM-OCR, PaddleOCR-VL) leave the positions of a prompt inside
the language model, for its next call. There the next prompt overwrites them, so they are taken out
and handed over with the embeddings, like those of the families that return them.
"""

from collections.abc import Mapping
from typing import Any

import mlx.core as mx
import numpy as np

# Where language models keep what they know of a prompt's positions, and of the offset of the
# tokens behind it: pictures take fewer positions than tokens.
_POSITIONS = "_position_ids"
_DELTAS = "_rope_deltas"
# What works both out.
_RULE = "get_rope_index"

# What a prompt's arguments hold a column a token of: along the last axis, or along the second.
_ALONG_LAST = frozenset({"position_ids", "visual_pos_masks", "token_type_ids", "mm_token_type_ids"})
_ALONG_SECOND = frozenset({"inputs_embeds", "per_layer_inputs", "pos_hw", "attention_mask"})
# What looks at the prompt as a whole: it cannot be fed in parts.
_WHOLE = frozenset(
    {
        "attention_mask_4d",
        "cross_attention_states",
        "cross_attention_mask",
        "full_text_row_masked_out_mask",
        "decoder_inputs_embeds",
    }
)
_DEEPSTACK = "deepstack_visual_embeds"
_VISUAL = "visual_pos_masks"


def embed(
    model: Any, ids: mx.array, pixel_values: Any, options: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what a language model is called with for the prompt `ids` (1, L), evaluated.

    `pixel_values` is None where it has no pictures; `options` is what else its processor made of
    it.
    """
    features = model.get_input_embeddings(ids, pixel_values, mask=mx.ones_like(ids), **options)
    known = {key: value for key, value in features.to_dict().items() if value is not None}
    embeddings = {**options, **known}
    if "position_ids" not in embeddings:
        pictures = pixel_values is not None
        embeddings.update(_take_positions(model.language_model, ids, pictures=pictures))
    # Evaluated here, so that it is this step and no part of the first chunk.
    mx.eval([value for value in embeddings.values() if isinstance(value, mx.array)])
    return embeddings


def _take_positions(language_model: Any, ids: mx.array, *, pictures: bool) -> dict[str, Any]:
    """Take a prompt's positions and its offset out of the model, as far as it keeps them there."""
    if not hasattr(language_model, _DELTAS):
        return {}
    taken: dict[str, Any] = {}
    if not pictures:
        # Nothing shifts the tokens behind a text; the model may still hold another prompt's shift.
        taken["rope_deltas"] = mx.zeros((1, 1), mx.int32)
    if not hasattr(language_model, _POSITIONS) or not hasattr(language_model, _RULE):
        return taken
    if pictures:
        positions, deltas = getattr(language_model, _POSITIONS), getattr(language_model, _DELTAS)
    else:
        positions, deltas = language_model.get_rope_index(ids)
    if not isinstance(positions, mx.array) or positions.shape[-1] != ids.shape[-1]:
        return taken
    setattr(language_model, _POSITIONS, None)
    # Without any, some work them out anew from each token that they are fed.
    setattr(language_model, _DELTAS, deltas)
    return {"position_ids": positions, "rope_deltas": deltas}


def resumable(language_model: Any, embeddings: Mapping[str, Any]) -> bool:
    """Whether a prompt can be fed from a token in its middle on.

    Not where something looks at the prompt as a whole, nor where the model works out the positions
    of pictures from the tokens that it is fed, or keeps them to itself.
    """
    if any(embeddings.get(name) is not None for name in _WHOLE):
        return False
    return embeddings.get("position_ids") is not None or not any(
        hasattr(language_model, name) for name in (_RULE, _POSITIONS, _DELTAS)
    )


def cut_span(embeddings: Mapping[str, Any], start: int, stop: int, length: int) -> dict[str, Any]:
    """Return the arguments of a prompt of `length` tokens for its tokens `start` to `stop`.

    What has a column a token is cut; of the features for deeper layers, which have a row a visual
    token, those of the span stay. Everything else is as it was.
    """
    span = slice(start, stop)
    cut = {name: _cut(name, value, span, length) for name, value in embeddings.items()}
    if (deepstack := embeddings.get(_DEEPSTACK)) is not None:
        mask = np.array(embeddings[_VISUAL])
        rows = slice(int(mask[:, :start].sum()), int(mask[:, :stop].sum()))
        cut[_DEEPSTACK] = [layer[rows] for layer in deepstack]
    return cut


def _cut(name: str, value: Any, span: slice, length: int) -> Any:
    if not isinstance(value, mx.array):
        return value
    if name in _ALONG_LAST and value.shape[-1] == length:
        return value[..., span]
    if name in _ALONG_SECOND and value.ndim > 1 and value.shape[1] == length:
        return value[:, span]
    return value
