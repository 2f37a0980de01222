"""From a conversation to what the model is fed: tokens, pictures, embeddings."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np
from mlx_vlm.utils import prepare_inputs
from PIL import Image

from backends.mlx_backend.embeddings import embed, resumable
from backends.mlx_backend.errors import ChatError
from backends.mlx_backend.images import picture_hash
from backends.mlx_backend.prefix_cache import (
    Ids,
    picture_key_ids,
    pictures_within,
    placeholder_runs,
)
from backends.mlx_backend.vision import PromptPictures

if TYPE_CHECKING:
    from backends.mlx_backend.generation import Generation
    from backends.mlx_backend.models import LoadedModel

_THINK = "<think>"


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt as the batch takes it: token ids, and the embeddings that stand for them.

    `whole`: it must be fed in one step.
    """

    ids: list[int]
    embeddings: dict[str, Any]
    whole: bool = False


class Reading:
    """A conversation and its `images` as tokens, followed by the `tokens` of its answer so far.

    `room` is how many tokens there is place for after the conversation. `thinking`: the answer
    begins inside the model's reasoning. `cached` tokens come out of the model's prefix cache once
    `recall` was called. ChatError for a conversation that the model's template refuses, and for one
    that leaves no room for an answer.
    """

    def __init__(
        self,
        model: "LoadedModel",
        generation: "Generation",
        images: Sequence[Image.Image] = (),
        tokens: Sequence[int] = (),
    ) -> None:
        self._model = model
        if images:
            _refuse_placeholders(model, generation)
        text = model.template.render(
            generation.messages, generation.tools, len(images), generation.variables
        )
        self._inputs = _tokenize(model, text, images)
        prompt: list[int] = self._inputs.pop("input_ids")[0].tolist()
        self.ids = [*prompt, *tokens]
        self.prompt_tokens = len(prompt)
        self.room = _room(model, len(prompt), generation.max_tokens)
        self.thinking = text.rstrip().endswith(_THINK)
        self.cached = 0
        self.cache: list[Any] | None = None
        self._recalled = False
        hashes = [picture_hash(image) for image in images]
        self._counts: list[int] = []
        self.key_ids: Ids | None = np.array(self.ids)
        self._pictures = PromptPictures(model.vision, [], [])
        if images:
            self.key_ids = self._picture_keys(hashes)
            self._pictures = model.vision.start(
                self._inputs["pixel_values"], self._inputs.get("image_grid_thw"), hashes
            )

    def __repr__(self) -> str:
        return f"<Reading {len(self.ids)} tokens, {self.cached} cached, {self._pictures!r}>"

    def _picture_keys(self, hashes: Sequence[bytes]) -> Ids | None:
        placeholder = getattr(self._model.model.config, "image_token_index", None)
        if placeholder is None:
            return None
        prompt = self.ids[: self.prompt_tokens]
        self._counts = placeholder_runs(prompt, placeholder)
        if len(self._counts) != len(hashes):
            text = (
                f"the messages spell the model's own image placeholder: it stands"
                f" {len(self._counts)} times among the tokens of {len(hashes)} images; leave it out"
            )
            raise ChatError("invalid_request", text, "messages")
        keys = picture_key_ids(prompt, placeholder, hashes, self._counts)
        return np.concatenate([keys, np.array(self.ids[self.prompt_tokens :], np.int64)])

    @property
    def _shows_pictures(self) -> bool:
        return "pixel_values" in self._inputs

    @property
    def _resumes(self) -> bool:
        return self._model.resumes.get(self._shows_pictures, False)

    def recall(self) -> None:
        """Take as much of the prompt as is known out of the prefix cache; once."""
        # Pictures within it are not encoded, so it must be sure that one can go on from there.
        if self.key_ids is None or self._recalled or not self._resumes:
            return
        self._recalled = True
        self.cached, self.cache = self._model.prefixes.find(self.key_ids)
        if self.cache is not None and self._counts:
            self._pictures.skip(pictures_within(self.key_ids, self.cached, self._counts))

    def encode_picture(self) -> bool:
        """Take one step: encode one picture; False where none is left."""
        if not self._pictures.left:
            return False
        self._pictures.encode_next()
        return True

    def prompt(self) -> Prompt:
        """Return the prompt with its embeddings, evaluated."""
        rest = {
            key: value
            for key, value in self._inputs.items()
            if key not in {"pixel_values", "attention_mask"}
        }
        model = self._model.model
        written = self._written_placeholders()
        plain = {token: embed(model, mx.array([[token]]), None, {}) for token in written.values()}
        with self._pictures.answering():
            ids = mx.array([self._shown(written)])
            embeddings = embed(model, ids, self._inputs.get("pixel_values"), rest)
        for place, token in written.items():
            embeddings["inputs_embeds"][:, place] = plain[token]["inputs_embeds"][:, 0]
        whole = self._shows_pictures and self._model.reads_pictures_whole
        resumes = not whole and resumable(model.language_model, embeddings)
        self._model.resumes[self._shows_pictures] = resumes
        if not resumes:
            self.key_ids = None
        return Prompt(self.ids, embeddings, whole=self._shows_pictures and not resumes)

    def _written_placeholders(self) -> dict[int, int]:
        """Return by their places the tokens of the answer that would be taken for pictures."""
        if not self._shows_pictures:
            return {}
        placeholders = _placeholders(self._model)
        answer = enumerate(self.ids[self.prompt_tokens :], self.prompt_tokens)
        return {place: token for place, token in answer if token in placeholders}

    def _shown(self, written: Mapping[int, int]) -> list[int]:
        # Another token keeps the place, until what the written one is embedded as is put there.
        other = self.ids[self.prompt_tokens - 1]
        return [other if place in written else token for place, token in enumerate(self.ids)]


def _placeholders(model: "LoadedModel") -> set[int]:
    """Return the tokens that stand for pictures."""
    names = ("image_token_index", "image_token_id", "video_token_index", "video_token_id")
    known = (getattr(model.model.config, name, None) for name in names)
    return {token for token in known if token is not None}


def _refuse_placeholders(model: "LoadedModel", generation: "Generation") -> None:
    """Refuse text that spells what stands for pictures, since processors take it for theirs.

    mlx-vlm's for Qwen puts the picture where the text spells the token, and forgets its place.
    """
    ids = _placeholders(model)
    added = model.tokenizer.get_added_vocab()
    shown = [generation.messages, *map(asdict, generation.tools), dict(generation.variables)]
    told = json.dumps(shown, ensure_ascii=False)
    spelled = next((text for text, token in added.items() if token in ids and text in told), None)
    if spelled is not None:
        text = f"the messages spell {spelled}, which stands for a picture in this model; leave it"
        raise ChatError("invalid_request", f"{text} out, or send no pictures", "messages")


def _tokenize(model: "LoadedModel", text: str, images: Sequence[Image.Image]) -> dict[str, Any]:
    try:
        inputs: dict[str, Any] = prepare_inputs(
            model.processor,
            images=list(images) or None,
            prompts=text,
            image_token_index=getattr(model.model.config, "image_token_index", None),
            add_special_tokens=False,
        )
    except ValueError as error:
        if not images:
            raise
        # mlx-vlm turns whatever an image processor refuses, a ribbon of pixels for one, into this.
        message = f"the model's image processor refuses an image: {error}"
        raise ChatError("invalid_image", message, "messages") from error
    return inputs


def _room(model: "LoadedModel", prompt: int, wanted: int | None) -> int:
    room = model.context_length - prompt
    if room < (wanted or 1):
        raise ChatError(
            "context_length_exceeded",
            f"the prompt has {prompt} tokens and the model's context {model.context_length}; that"
            f" leaves {max(room, 0)} for an answer, {wanted or 1} were asked for",
            "messages",
        )
    return room
