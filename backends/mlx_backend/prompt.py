"""From a conversation to what the model is fed: template, tokens, embeddings."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import mlx.core as mx
from jinja2 import TemplateError
from mlx_vlm.prompt_utils import apply_chat_template
from mlx_vlm.utils import prepare_inputs
from PIL import Image

from backends.mlx_backend.errors import ChatError
from backends.mlx_backend.images import decode_image

if TYPE_CHECKING:
    from backends.mlx_backend.generation import Generation
    from backends.mlx_backend.models import LoadedModel


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt as the batch takes it: token ids, and the embeddings that stand for them."""

    ids: list[int]
    embeddings: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Reading:
    """A conversation as tokens, with its pictures as pixels; `room` is left for an answer.

    `ids` end with the tokens that the answer has already. `thinking`: they end inside the model's
    reasoning.
    """

    ids: list[int]
    room: int
    thinking: bool
    inputs: dict[str, Any] = field(repr=False)


def read(model: "LoadedModel", generation: "Generation", tokens: Sequence[int] = ()) -> Reading:
    """Render and tokenize a conversation, followed by the `tokens` of its answer so far.

    ChatError for an image that is none or that the model cannot see, for a conversation that the
    model's template refuses, and for one that leaves no room for an answer.
    """
    if generation.images and not model.sees:
        text = f"{generation.model} does not take images; assign vision to a model that does"
        raise ChatError("capability_mismatch", text, "model")
    images = [decode_image(picture.data) for picture in generation.images]
    text = _render(model, generation, len(images))
    inputs = _tokenize(model, text, images)
    prompt = inputs.pop("input_ids")[0].tolist()
    room = _room(model, len(prompt), generation.max_tokens)
    thinking = text.rstrip().endswith("<think>")
    return Reading([*prompt, *tokens], room, thinking, inputs)


def embed(model: "LoadedModel", reading: Reading) -> Prompt:
    """Return the prompt with its embeddings, evaluated."""
    ids = mx.array([reading.ids])
    rest = {
        key: value
        for key, value in reading.inputs.items()
        if key not in {"pixel_values", "attention_mask"}
    }
    features = model.model.get_input_embeddings(
        ids, reading.inputs.get("pixel_values"), mask=mx.ones_like(ids), **rest
    )
    known = {key: value for key, value in features.to_dict().items() if value is not None}
    embeddings = {**rest, **known}
    # Evaluated here, so that encoding an image is this step and no part of the first prefill.
    mx.eval([value for value in embeddings.values() if isinstance(value, mx.array)])
    return Prompt(reading.ids, embeddings)


def _render(model: "LoadedModel", generation: "Generation", images: int) -> str:
    try:
        text = apply_chat_template(
            model.processor,
            model.model.config,
            list(generation.messages),
            num_images=images,
        )
    except TemplateError as error:
        if type(error) is not TemplateError:
            raise  # a defect of the template
        # What a template's own `raise_exception` raises, for conversations it is not made for.
        message = f"the model's chat template refuses the messages: {error}"
        raise ChatError("invalid_request", message, "messages") from error
    return str(text)


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
