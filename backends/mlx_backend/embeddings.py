"""What a model makes of a prompt before its first layer, and where each of its tokens stands.

The models of some families (GLM-4V, GLM-OCR, PaddleOCR-VL) leave the positions of a prompt inside
the language model, for its next call. There the next prompt overwrites them, so they are taken out
and handed over with the embeddings, like those of the families that return them.
"""

from collections.abc import Mapping
from typing import Any

import mlx.core as mx

# Where language models keep what they know of a prompt's positions, and of the offset of the
# tokens behind it: pictures take fewer positions than tokens.
_POSITIONS = "_position_ids"
_DELTAS = "_rope_deltas"


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
    if not hasattr(language_model, _POSITIONS) or not hasattr(language_model, "get_rope_index"):
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
