"""The life of a loaded model: checked on disk, loaded, and its memory given back."""

import gc
import json
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_vlm.utils import load
from PIL import Image

from backends.mlx_backend.batch import Batch
from backends.mlx_backend.deltas import MARKERS
from backends.mlx_backend.detokenize import text_of_tokens
from backends.mlx_backend.embeddings import embed
from backends.mlx_backend.errors import ChatError
from backends.mlx_backend.generation import Generation, LoadProgress, Sampling
from backends.mlx_backend.images import DEFAULT_LIMITS, ImageLimits
from backends.mlx_backend.prefill import PrefillPace
from backends.mlx_backend.prefix_cache import PrefixCache
from backends.mlx_backend.prompt import Prompt, Reading
from backends.mlx_backend.sampling import SamplingPlan
from backends.mlx_backend.template import ChatTemplate
from backends.mlx_backend.token_mask import Grammars
from backends.mlx_backend.vision import VisionEncoder
from backends.wire import LoadPhase, Priority

_MIB = 1024 * 1024
_LENGTH_BYTES = 8
_LARGEST_HEADER = 256 * 1024 * 1024
_DEFAULT_CONTEXT = 8192
# What is read of the weights between two reports of progress.
_PIECE_BYTES = 32 * _MIB
# Of pictures to try a model with, in pixels; different ones, so that rows are shifted differently.
_SAMPLE_SIZES = ((128, 96), (96, 192))


def check_folder(name: str, folder: Path) -> dict[str, Any]:
    """Return a model folder's configuration; ChatError `model_load_failed` naming a bad file.

    What a download or a disk can break is found here, in milliseconds and by name; loading would
    fail on it with an error that names no file, or not at all.
    """
    config = _read_object(name, folder / "config.json")
    if "model_file" in config or "auto_map" in config:
        # The model would run its own Python code in this process.
        raise _broken(name, "config.json asks to run code of the model's own, which is refused")
    for path in sorted(folder.glob("*.json")):
        _read_object(name, path)
    if not any((folder / file).is_file() for file in ("tokenizer.json", "tokenizer.model")):
        raise _broken(name, "tokenizer.json is missing")
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise _broken(name, "there is no *.safetensors file")
    for path in weights:
        _check_safetensors(name, path)
    return config


def _broken(name: str, text: str) -> ChatError:
    return ChatError(
        "model_load_failed",
        f"{name} cannot be loaded: {text}. Put a whole copy in its place, or delete its folder and "
        f"fetch it again: signalbox models pull {name}",
        "model",
    )


def _read_object(name: str, path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise _broken(name, f"{path.name} is missing") from None
    except (OSError, ValueError, RecursionError) as error:
        raise _broken(name, f"{path.name} is no valid JSON file") from error
    if not isinstance(value, dict):
        raise _broken(name, f"{path.name} holds no JSON object")
    return value


def _check_safetensors(name: str, path: Path) -> None:
    # Eight bytes of length, a JSON header of that length, then the tensors; the header names the
    # last byte that they need.
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
            if not 0 < length <= min(size - _LENGTH_BYTES, _LARGEST_HEADER):
                raise _broken(name, f"{path.name} is damaged: its header does not fit")
            header = json.loads(file.read(length))
        ends = [entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__"]
        needed = _LENGTH_BYTES + length + max(ends, default=0)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise _broken(name, f"{path.name} is damaged: its header cannot be read") from error
    if size < needed:
        raise _broken(name, f"{path.name} is cut short: {size} of {needed} bytes")


def _read_weights(model: Any, progress: LoadProgress) -> None:
    """Read the weights of a model that was made without them, and tell how many bytes are there."""
    weights = [array for _, array in tree_flatten(model.parameters())]
    whole, read = sum(array.nbytes for array in weights), 0
    piece: list[mx.array] = []
    progress(LoadPhase.WEIGHTS, 0)
    for array in weights:
        piece.append(array)
        if sum(each.nbytes for each in piece) >= _PIECE_BYTES or array is weights[-1]:
            mx.eval(piece)
            read += sum(each.nbytes for each in piece)
            piece.clear()
            progress(LoadPhase.WEIGHTS, read / whole)


class LoadedModel:
    """A model in memory with its processor; made and used on the MLX thread only.

    `progress` hears how far the load is.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        *,
        chunk_s: float,
        kv_bits: int | None = None,
        prefixes_mb: float = 256,
        image_limits: ImageLimits = DEFAULT_LIMITS,
        progress: LoadProgress = lambda _phase, _done: None,
    ) -> None:
        config = check_folder(name, folder)
        self.name = name
        self.model, self.processor = load(str(folder), lazy=True)
        if mx.default_device().type == mx.DeviceType.cpu:
            # MLX emulates 16-bit floats on a CPU: SmolLM2 took 4.6 s a token in float16, 0.2 s in
            # float32 (two cores of an AMD EPYC).
            self.model.set_dtype(mx.float32)
        _read_weights(self.model, progress)
        self.tokenizer = getattr(self.processor, "tokenizer", self.processor)
        self.sees = bool(config.get("vision_config")) and hasattr(self.processor, "image_processor")
        self.context_length = _context_length(config)
        self.ends = frozenset(self.tokenizer.stopping_criteria.eos_token_ids)
        self.template = ChatTemplate(self.processor, self.model.config)
        self.vocabulary_size = _vocabulary_size(config) or len(self.tokenizer)
        self.grammars = Grammars(self.tokenizer, self.vocabulary_size, self.ends)
        progress(LoadPhase.WARM_UP, 0)
        self.grammars.prepare()
        # The text of tokens, without special ones but for those that mark calls.
        self.decode = text_of_tokens(self.tokenizer, _silent_tokens(self.tokenizer))
        self._defaults = _generation_defaults(name, folder)
        self._kv_bits = kv_bits
        self._pace = PrefillPace(chunk_s)
        self.image_limits = image_limits
        self.vision = VisionEncoder(self.model)
        # Whether prompts without pictures, and with them, can be gone on with after a known prefix;
        # the first one of each kind tells.
        self.resumes: dict[bool, bool] = {}
        # Whether the self-test found that prompts with pictures must be read in one step.
        self.reads_pictures_whole = False
        self.prefixes = PrefixCache(int(prefixes_mb * _MIB))

    def __repr__(self) -> str:
        return f"<LoadedModel {self.name} context={self.context_length} sees={self.sees}>"

    @cached_property
    def token_mb(self) -> float:
        """What a token takes in a row's cache, in MiB; 0 where the model does not tell."""
        text = self.model.language_model
        heads = getattr(text, "n_kv_heads", 0) * getattr(text, "head_dim", 0)
        bits = self._kv_bits or (32 if mx.default_device().type == mx.DeviceType.cpu else 16)
        return 2 * len(text.layers) * heads * bits / 8 / _MIB

    def open_batch(self, *, keeps: bool = True) -> Batch:
        """Return a batch without rows; whether it `keeps` their caches as they come and go."""
        return Batch(self.model.language_model, pace=self._pace, kv_bits=self._kv_bits, keeps=keeps)

    def samples(self) -> list[Callable[[], Prompt]]:
        """Return makers of short prompts to try the model with: texts, and pictures if it sees."""
        ids = self.tokenizer.encode("Hello there, how are you?", add_special_tokens=False)
        samples: list[Callable[[], Prompt]] = [
            partial(self._text_sample, ids[:count]) for count in (2, 4)
        ]
        if self.sees:
            samples += [partial(self._picture_sample, size) for size in _SAMPLE_SIZES]
        return samples

    def _text_sample(self, ids: list[int]) -> Prompt:
        return Prompt(ids, embed(self.model, mx.array([ids]), None, {}))

    def _picture_sample(self, size: tuple[int, int]) -> Prompt:
        content = [{"type": "image"}, {"type": "text", "text": "Describe the image."}]
        messages = [{"role": "user", "content": content}]
        asked = Generation(
            self.name, Path(), messages, (), Sampling(), None, (), priority=Priority.LOW
        )
        return Reading(self, asked, [Image.new("RGB", size, "teal")]).prompt()

    def token_bytes(self, token: int) -> bytes:
        """Return what a token stands for, special ones by their names."""
        return str(self.tokenizer.decode([token], clean_up_tokenization_spaces=False)).encode()

    def plan(self, wanted: Sampling, seed: int) -> SamplingPlan:
        """Fill in what a request left open: the model's own defaults, else OpenAI's.

        ChatError for a bias on a token that the model does not have: MLX checks no index, and
        writing beyond an array ends the process.
        """
        size = self.vocabulary_size
        beyond = next((token for token in wanted.logit_bias if token >= size), None)
        if beyond is not None:
            text = f"logit_bias: the model has the tokens 0 to {size - 1}, and no {beyond}"
            raise ChatError("invalid_request", text, "logit_bias")
        defaults = self._defaults
        return SamplingPlan(
            temperature=_first(wanted.temperature, defaults.temperature, 1.0),
            top_p=_first(wanted.top_p, defaults.top_p, 1.0),
            top_k=int(_first(wanted.top_k, defaults.top_k, 0)),
            min_p=_first(wanted.min_p, defaults.min_p, 0.0),
            seed=seed,
            frequency_penalty=wanted.frequency_penalty,
            presence_penalty=wanted.presence_penalty,
            repetition_penalty=wanted.repetition_penalty,
            logit_bias=wanted.logit_bias,
            top_logprobs=wanted.top_logprobs,
        )

    def close(self) -> None:
        """Give the memory back; dropping the object alone does not."""
        vars(self).clear()
        give_back_memory()


def give_back_memory() -> None:
    """Return what dropped models held.

    Only after a model is gone: clearing MLX's cache now and then has been blamed for kernel panics
    on Macs.
    """
    gc.collect()
    mx.clear_cache()


def _first(*values: float | None) -> float:
    return next(value for value in values if value is not None)


def _context_length(config: dict[str, Any]) -> int:
    for part in (config.get("text_config") or {}, config):
        length = part.get("max_position_embeddings")
        if isinstance(length, int) and length > 0:
            return length
    return _DEFAULT_CONTEXT


def _silent_tokens(tokenizer: Any) -> frozenset[int]:
    """Return the tokens that are no part of an answer's text.

    In some vocabularies the markers of calls and reasoning are among the special tokens; whoever
    reads the answer looks for them.
    """
    special = zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True)
    return frozenset(token for token, text in special if text not in MARKERS)


def _vocabulary_size(config: dict[str, Any]) -> int:
    text = config.get("text_config") or config
    return int(text.get("vocab_size", 0))


def _generation_defaults(name: str, folder: Path) -> Sampling:
    path = folder / "generation_config.json"
    if not path.is_file():
        return Sampling()
    config = _read_object(name, path)

    def number(key: str) -> float | None:
        value = config.get(key)
        return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None

    temperature = 0.0 if config.get("do_sample") is False else number("temperature")
    top_k = number("top_k")
    return Sampling(
        temperature=temperature,
        top_p=number("top_p"),
        top_k=None if top_k is None else int(top_k),
        min_p=number("min_p"),
    )
