"""Pictures through the vision tower one by one, and what came out of it kept for the next prompt.

mlx-vlm encodes all pictures of a prompt in one call and again in every turn of a conversation.
Here each one is a step of its own, so that other rows' tokens go on between, and one seen before
is not encoded again. Everything in this module belongs to the MLX thread.
"""

import inspect
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import mlx.core as mx
import numpy as np

DEFAULT_BYTES = 256 * 1024**2
_TOWER = "vision_tower"

# A picture's hash, and the grid of patches that the processor made of it.
_Grid = tuple[int, int, int]
_Key = tuple[bytes, _Grid]


@dataclass(frozen=True, slots=True)
class VisionStatus:
    """What the encoder did since the model was loaded, and the features that it holds now."""

    encoded: int
    recalled: int
    worst_encode_s: float
    pictures: int
    bytes: int


@dataclass(frozen=True, slots=True)
class _Features:
    """What the tower makes of one picture: arrays (rows, width) with the same number of rows.

    The first one goes into the embeddings. Where `paired`, the tower answers with a pair, and the
    others, if any, are added to what the language model's first layers make ("deepstack").
    """

    layers: tuple[mx.array, ...]
    paired: bool

    @property
    def nbytes(self) -> int:
        return sum(layer.nbytes for layer in self.layers)


class VisionEncoder:
    """A model's vision tower with a memory of `max_bytes` of features, the oldest forgotten first.

    `splits` is False for a family whose tower does not take rows of patches and their grids: its
    pictures are encoded together within `get_input_embeddings`, and none is remembered.
    """

    def __init__(self, model: Any, max_bytes: int = DEFAULT_BYTES) -> None:
        self.model = model
        self.splits = _takes_grids(getattr(model, _TOWER, None))
        self._max_bytes = max_bytes
        self._kept: OrderedDict[_Key, _Features] = OrderedDict()
        self._bytes = 0
        self._encoded = 0
        self._recalled = 0
        self._worst_s = 0.0
        self._blank: tuple[int, _Features] | None = None

    def __repr__(self) -> str:
        kept = f"{len(self._kept)} pictures in {self._bytes} of {self._max_bytes} bytes"
        return f"<VisionEncoder {'one by one' if self.splits else 'whole'}, {kept}>"

    @property
    def status(self) -> VisionStatus:
        """The counters of /health."""
        return VisionStatus(
            self._encoded, self._recalled, self._worst_s, len(self._kept), self._bytes
        )

    def start(
        self, pixel_values: mx.array, grid_thw: mx.array | None, hashes: Sequence[bytes]
    ) -> "PromptPictures":
        """Take in a prompt's processed pictures; nothing is encoded yet.

        `pixel_values` is (patches, values a patch), one picture after the other; `grid_thw`
        (pictures, 3) says how many patches each has in time, height and width; `hashes` tell the
        decoded pictures apart. Both may be of another form where the encoder does not split.
        """
        grids: list[_Grid] = []
        if self.splits and grid_thw is not None:
            grids = [(int(t), int(h), int(w)) for t, h, w in np.array(grid_thw)]
        ends = list(accumulate((t * h * w for t, h, w in grids), initial=0))
        if not grids or pixel_values.shape != (ends[-1], pixel_values.shape[-1]):
            # A tower that takes grids, but pictures of another form: Kimi's are no rows.
            self.splits = False
            return PromptPictures(self, [], [])
        keys = list(zip(hashes, grids, strict=True))
        return PromptPictures(self, keys, [pixel_values[a:b] for a, b in pairwise(ends)])

    def recall(self, key: _Key) -> _Features | None:
        """Return the features of a picture that is remembered."""
        if (features := self._kept.get(key)) is not None:
            self._kept.move_to_end(key)
            self._recalled += 1
        return features

    def encode(self, key: _Key, pixels: mx.array) -> _Features:
        """Encode one picture, wait until it is computed, and remember it."""
        tower = getattr(self.model, _TOWER)
        begun = time.perf_counter()
        features = _named(
            tower(pixels.astype(tower.patch_embed.proj.weight.dtype), mx.array([key[1]]))
        )
        mx.eval(features.layers)
        self._worst_s = max(self._worst_s, time.perf_counter() - begun)
        self._encoded += 1
        if self._blank is None:
            nothing = tuple(mx.zeros_like(layer[:1]) for layer in features.layers)
            patches_a_row = pixels.shape[0] // features.layers[0].shape[0]
            self._blank = patches_a_row, _Features(nothing, features.paired)
        self._remember(key, features)
        return features

    def blank(self, patches: int) -> _Features | None:
        """Return features of zeros for a picture that nobody will look at.

        None while no picture has shown which form they have.
        """
        if self._blank is None:
            return None
        patches_a_row, row = self._blank
        rows = patches // patches_a_row
        zeros = tuple(mx.broadcast_to(layer, (rows, layer.shape[1])) for layer in row.layers)
        return _Features(zeros, row.paired)

    def _remember(self, key: _Key, features: _Features) -> None:
        if features.nbytes > self._max_bytes:
            return
        self._kept[key] = features
        self._bytes += features.nbytes
        while self._bytes > self._max_bytes:
            _, oldest = self._kept.popitem(last=False)
            self._bytes -= oldest.nbytes


class PromptPictures:
    """The pictures of one prompt on their way through the tower; made by `VisionEncoder.start`.

    It holds what it needs itself: dropping it forgets an unfinished prompt, and what the encoder
    forgets meanwhile is not missing here.
    """

    def __init__(
        self, encoder: VisionEncoder, keys: Sequence[_Key], pixels: Sequence[mx.array]
    ) -> None:
        self._encoder = encoder
        self._keys = keys
        self._features: dict[_Key, _Features] = {}
        self._waiting: OrderedDict[_Key, mx.array] = OrderedDict()
        for key, patches in zip(keys, pixels, strict=True):
            if key in self._features or key in self._waiting:
                continue
            if (features := encoder.recall(key)) is not None:
                self._features[key] = features
            else:
                self._waiting[key] = patches

    def __repr__(self) -> str:
        return f"<PromptPictures {len(self._keys)}, {self.left} to encode>"

    @property
    def left(self) -> int:
        """How many steps are still to be taken."""
        return len(self._waiting)

    def skip(self, count: int) -> None:
        """Do not encode the first `count` pictures: their tokens come out of a prefix cache.

        Zeros stand for them, so the embeddings of their tokens must not be fed. One that also
        comes later in the prompt is encoded all the same.
        """
        for key in set(self._keys[:count]) - set(self._keys[count:]):
            if key in self._waiting:
                blank = self._encoder.blank(self._waiting[key].shape[0])
                if blank is not None:
                    self._features[key] = blank
                    del self._waiting[key]

    def encode_next(self) -> None:
        """Take one step: encode the next picture, unless another prompt has done it meanwhile."""
        key, pixels = next(iter(self._waiting.items()))
        self._features[key] = self._encoder.recall(key) or self._encoder.encode(key, pixels)
        del self._waiting[key]

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Have the model's tower answer with these features, for one `get_input_embeddings`.

        What is not encoded by then is encoded now. The tower stays where it is in the model's tree
        of modules: an instance attribute stands before it, so parameters and dtypes are as ever.
        """
        while self.left:
            self.encode_next()
        if not self._keys:
            yield
            return
        model = self._encoder.model
        attributes = vars(model)
        tower = getattr(model, _TOWER)
        attributes[_TOWER] = _Answering(tower, [self._features[key] for key in self._keys])
        try:
            yield
        finally:
            del attributes[_TOWER]


class _Answering:
    """A tower that knows the answer."""

    def __init__(self, tower: Any, features: Sequence[_Features]) -> None:
        self._tower = tower
        self._features = features

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tower, name)

    def __call__(self, *_arguments: Any, **_options: Any) -> Any:
        layers = [
            mx.concatenate(list(parts))
            for parts in zip(*(picture.layers for picture in self._features), strict=True)
        ]
        return (layers[0], layers[1:]) if self._features[0].paired else layers[0]


def _takes_grids(tower: Any) -> bool:
    """Whether a tower is of the form (patches, grid_thw), as those of the Qwen-VL families are."""
    if not hasattr(getattr(tower, "patch_embed", None), "proj"):
        return False
    names = list(inspect.signature(type(tower).__call__).parameters)
    return names[2:3] == ["grid_thw"]


def _named(answer: Any) -> _Features:
    if isinstance(answer, mx.array):
        return _Features((answer,), paired=False)
    features, deepstack = answer
    return _Features((features, *deepstack), paired=True)
