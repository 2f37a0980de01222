"""A vision model of two megabytes that really sees, trained here in seconds.

A Qwen3-VL of two layers learns to name the colour of a picture, so that a wrong answer in a test
means that pictures were mixed up or lost on the way, not that the model is weak. It also answers:

- a question without a picture: "I see no picture."
- anything with the word "count": digits that go on until `max_tokens`, for tests that cancel.

`python -m tests.harness.tiny_vision DIR` writes a complete MLX folder and exits with status 1 when
the loaded folder does not name 18 of 18 unseen pictures.
"""

import contextlib
import json
import random
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx import nn, optimizers
from mlx.utils import tree_flatten
from PIL import Image
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from tests.harness.colours import COLOURS

NO_PICTURE = "I see no picture."

_QUESTIONS = (
    "What colour is this?",
    "What color is this?",
    "What colour is this picture?",
    "Which colour do you see?",
    "What is the colour of this image?",
    "Name the colour.",
    "colour?",
    "Describe the image.",
    "What is in this picture?",
)
_COUNTING = ("count", "Count.", "Please count.", "count to a hundred", "Count up from one, slowly.")
_WORDS = re.findall(
    r"\w+",
    "hello please tell me about the weather in Paris today what is a good story and why do people "
    "write say answer in one word you are helpful assistant be brief system picture colour image "
    "capital of France number four two time name list all things that can fly",
)

_SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
# Qwen adds these to the vocabulary without marking them special, so that they survive decoding.
_ADDED = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>")
_ADDED_END = ("</think>",)
_VOCABULARY = 384
_STEPS = 120
_SEED = 7
_CONTEXT = 4096

# ChatML with Qwen's way of showing tools and pictures.
_CHAT_TEMPLATE = """\
{%- macro show(content) -%}
{%- if content is string -%}{{ content }}
{%- else -%}
{%- for part in content or [] -%}
{%- if part.type in ['image', 'image_url'] or 'image' in part -%}
<|vision_start|><|image_pad|><|vision_end|>
{%- elif 'text' in part -%}{{ part.text }}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
{%- if tools -%}
{{- '<|im_start|>system\\n' -}}
{%- if messages[0].role == 'system' -%}{{- show(messages[0].content) + '\\n\\n' -}}{%- endif -%}
{{- '# Tools\\n<tools>' -}}
{%- for tool in tools -%}{{- '\\n' + (tool | tojson) -}}{%- endfor -%}
{{- '\\n</tools>\\nCall one with <tool_call>\\n{"name": ..., "arguments": ...}\\n</tool_call>' -}}
{{- '<|im_end|>\\n' -}}
{%- elif messages[0].role == 'system' -%}
{{- '<|im_start|>system\\n' + show(messages[0].content) + '<|im_end|>\\n' -}}
{%- endif -%}
{%- for message in messages -%}
{%- if message.role == 'tool' -%}
{{- '<|im_start|>user\\n<tool_response>\\n' + show(message.content) -}}
{{- '\\n</tool_response><|im_end|>\\n' -}}
{%- elif message.role != 'system' or not loop.first -%}
{{- '<|im_start|>' + message.role + '\\n' + show(message.content) -}}
{%- for call in message.tool_calls or [] -%}
{%- set function = call.function or call -%}
{{- '\\n<tool_call>\\n{"name": "' + function.name + '", "arguments": ' -}}
{{- function.arguments if function.arguments is string else function.arguments | tojson -}}
{{- '}\\n</tool_call>' -}}
{%- endfor -%}
{{- '<|im_end|>\\n' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""


@dataclass(frozen=True, slots=True)
class Sample:
    """One conversation to learn: its messages, the pictures in them, the answer's text.

    `leap` is how far behind the prompt the answer's later tokens pretend to stand, so that a short
    sample teaches what an answer of that many tokens would; such an answer never ends.
    """

    messages: list[dict[str, Any]]
    pictures: list[Image.Image]
    answer: str
    leap: int | None = None


def picture(colour: str, rng: random.Random) -> Image.Image:
    """Return a picture of one colour with a random size, shade and noise."""
    width, height = rng.randint(24, 140), rng.randint(24, 140)
    noise = np.random.default_rng(rng.randrange(2**32))
    shade = np.array([channel + rng.randint(-15, 15) for channel in COLOURS[colour]])
    pixels = shade + noise.normal(0, rng.uniform(0, 12), (height, width, 3))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def answer_for(colour: str) -> str:
    """Return what the trained model says of a picture of that colour."""
    return f"This is {colour}."


def _chatter(rng: random.Random, most: int) -> str:
    return " ".join(rng.choices(_WORDS, k=rng.randint(1, most)))


def _seeing(rng: random.Random) -> Sample:
    colour = rng.choice(list(COLOURS))
    parts: list[dict[str, Any]] = [
        {"type": "image"},
        {"type": "text", "text": rng.choice(_QUESTIONS)},
    ]
    if rng.random() < 0.3:
        parts.reverse()
    messages: list[dict[str, Any]] = [{"role": "user", "content": parts}]
    if rng.random() < 0.2:
        messages.insert(0, {"role": "system", "content": _chatter(rng, 8)})
    return Sample(messages, [picture(colour, rng)], answer_for(colour))


def _counting(rng: random.Random) -> Sample:
    text = rng.choice(_COUNTING)
    if rng.random() < 0.3:
        text = f"{_chatter(rng, 6)} {text}"
    digits = "".join(f" {n % 10}" for n in range(1, 24))
    return Sample([{"role": "user", "content": text}], [], digits, leap=rng.randint(0, 1500))


def _talking(rng: random.Random) -> Sample:
    text = rng.choice([*_QUESTIONS, _chatter(rng, 24), _chatter(rng, 6)])
    return Sample([{"role": "user", "content": text}], [], NO_PICTURE)


def _batch(rng: random.Random) -> list[Sample]:
    return [_seeing(rng) for _ in range(5)] + [_counting(rng), _talking(rng), _talking(rng)]


def _corpus() -> Iterator[str]:
    yield from _QUESTIONS
    yield from _COUNTING
    yield " ".join(_WORDS)
    for _ in range(8):
        yield NO_PICTURE
        yield "count Count"
        yield "".join(f" {n % 10}" for n in range(1, 400))
        for colour in COLOURS:
            yield answer_for(colour)
        yield "system\nuser\nassistant\n"


def _write_tokenizer(folder: Path) -> Tokenizer:
    """Train a byte-level BPE of exactly `_VOCABULARY` tokens and write its files."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY - len(_SPECIAL) - len(_ADDED) - len(_ADDED_END),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    added = [AddedToken(text, special=True, normalized=False) for text in _SPECIAL]
    added += [AddedToken(text, special=False, normalized=False) for text in _ADDED + _ADDED_END]
    tokenizer.add_tokens(added)
    tokenizer.save(str(folder / "tokenizer.json"))
    _write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "Qwen2Tokenizer",
            "model_max_length": _CONTEXT,
            "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>",
            "add_bos_token": False,
            "clean_up_tokenization_spaces": False,
        },
    )
    (folder / "chat_template.jinja").write_text(_CHAT_TEMPLATE, encoding="utf-8")
    return tokenizer


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def _write_configuration(folder: Path, tokenizer: Tokenizer) -> None:
    """Write every file that the loader asks the hub for when it is missing."""
    end = tokenizer.token_to_id("<|im_end|>")
    pad = tokenizer.token_to_id("<|endoftext|>")
    text = {
        "model_type": "qwen3_vl_text",
        "num_hidden_layers": 2,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "rms_norm_eps": 1e-6,
        "vocab_size": tokenizer.get_vocab_size(),
        "rope_theta": 10000.0,
        "rope_scaling": {"type": "default", "mrope_section": [8, 4, 4]},
        "max_position_embeddings": _CONTEXT,
        "tie_word_embeddings": False,
    }
    vision = {
        "model_type": "qwen3_vl",
        "depth": 2,
        "hidden_size": 64,
        "intermediate_size": 128,
        "out_hidden_size": 64,
        "num_heads": 2,
        "in_channels": 3,
        "patch_size": 16,
        "spatial_patch_size": 16,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0],
    }
    _write_json(
        folder / "config.json",
        {
            "model_type": "qwen3_vl",
            "architectures": ["Qwen3VLForConditionalGeneration"],
            "text_config": text,
            "vision_config": vision,
            "image_token_id": tokenizer.token_to_id("<|image_pad|>"),
            "video_token_id": tokenizer.token_to_id("<|video_pad|>"),
            "vision_start_token_id": tokenizer.token_to_id("<|vision_start|>"),
            "vision_end_token_id": tokenizer.token_to_id("<|vision_end|>"),
            "vision_token_id": tokenizer.token_to_id("<|vision_pad|>"),
            "vocab_size": tokenizer.get_vocab_size(),
            "eos_token_id": [end, pad],
            "tie_word_embeddings": False,
        },
    )
    # One token a 32 × 32 square, at most 16 of them a picture.
    images = {
        "patch_size": 16,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "size": {"shortest_edge": 32 * 32, "longest_edge": 128 * 128},
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    _write_json(
        folder / "preprocessor_config.json",
        {"image_processor_type": "Qwen2VLImageProcessorFast", **images},
    )
    _write_json(
        folder / "video_preprocessor_config.json",
        {"video_processor_type": "Qwen3VLVideoProcessor", **images},
    )
    _write_json(folder / "processor_config.json", {"processor_class": "Qwen3VLProcessor"})
    _write_json(
        folder / "generation_config.json",
        {"eos_token_id": [end, pad], "pad_token_id": pad, "do_sample": False},
    )


def _tensors(processor: Any, samples: list[Sample]) -> dict[str, mx.array]:
    """Return token ids, each token's weight in the loss and its leap, and the pictures' tensors."""
    tokenizer = processor.tokenizer
    prompts = [
        tokenizer.apply_chat_template(sample.messages, tokenize=False, add_generation_prompt=True)
        for sample in samples
    ]
    pictures = [sample.pictures for sample in samples]
    rows = processor(text=prompts, images=pictures, add_special_tokens=False)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    longest = 256
    # Padding stands at the right, where a causal model does not see it.
    ids = np.full((len(samples), longest), end)
    weights = np.zeros(ids.shape, dtype=np.float32)
    leaps = np.zeros(ids.shape, dtype=np.int32)
    used = 0
    for row, (sample, prompt) in enumerate(zip(samples, rows["input_ids"], strict=True)):
        learned = tokenizer.encode(sample.answer, add_special_tokens=False)
        learned += [end] if sample.leap is None else []
        begin, stop = len(prompt), len(prompt) + len(learned)
        ids[row, :stop] = [*prompt, *learned]
        # Each answer counts the same, however long: the one word that tells the colour matters.
        weights[row, begin:stop] = 1 / len(learned)
        leaps[row, begin + 4 :] = sample.leap or 0
        used = max(used, stop)
    return {
        "ids": mx.array(ids[:, :used]),
        "weights": mx.array(weights[:, :used]),
        "leaps": mx.array(leaps[:, :used]),
        "pixel_values": mx.array(rows["pixel_values"]),
        "image_grid_thw": mx.array(rows["image_grid_thw"]),
    }


def _loss(model: nn.Module, rows: dict[str, mx.array]) -> mx.array:
    ids = rows["ids"]
    seen = model.get_input_embeddings(
        ids, rows["pixel_values"], image_grid_thw=rows["image_grid_thw"]
    )
    logits = model.language_model(
        ids,
        inputs_embeds=seen.inputs_embeds,
        visual_pos_masks=seen.visual_pos_masks,
        deepstack_visual_embeds=seen.deepstack_visual_embeds,
        position_ids=seen.position_ids + rows["leaps"],
    ).logits
    each = nn.losses.cross_entropy(logits[:, :-1], ids[:, 1:])
    total: mx.array = (each * rows["weights"][:, 1:]).sum()
    return total / len(ids)


def train(folder: Path) -> None:
    """Train the model and write its complete MLX folder; the same bytes on the same machine."""
    from mlx_vlm.utils import get_model_and_args, load_config, load_processor  # noqa: PLC0415

    folder.mkdir(parents=True, exist_ok=True)
    mx.random.seed(_SEED)
    rng = random.Random(_SEED)  # noqa: S311 a seed that repeats is the point
    tokenizer = _write_tokenizer(folder)
    _write_configuration(folder, tokenizer)
    package, _ = get_model_and_args(load_config(folder))
    model = package.Model(package.ModelConfig.from_dict(load_config(folder)))
    processor = load_processor(folder, add_detokenizer=False)
    rate = optimizers.cosine_decay(2e-3, _STEPS, 2e-4)
    optimizer = optimizers.AdamW(learning_rate=rate)
    step_of = nn.value_and_grad(model, _loss)
    for step in range(_STEPS):
        loss, gradients = step_of(model, _tensors(processor, _batch(rng)))
        optimizer.update(model, gradients)
        mx.eval(model.parameters(), optimizer.state)
        if step % 20 == 0 or step == _STEPS - 1:
            print(f"step {step:3d}  loss {loss.item():.4f}", flush=True)  # noqa: T201 its report
    mx.save_safetensors(
        str(folder / "model.safetensors"),
        dict(tree_flatten(model.parameters())),
        metadata={"format": "mlx"},
    )


def answer(model: Any, processor: Any, text: str, pictures: list[Image.Image], most: int) -> str:
    """Return the loaded model's greedy answer of at most `most` tokens."""
    from mlx_vlm.generate import stream_generate  # noqa: PLC0415 loads slowly
    from mlx_vlm.prompt_utils import apply_chat_template  # noqa: PLC0415 loads slowly

    prompt = apply_chat_template(processor, model.config, text, num_images=len(pictures))
    chunks = stream_generate(
        model, processor, prompt, image=pictures or None, max_tokens=most, temperature=0.0
    )
    return "".join(chunk.text for chunk in chunks)


def verify(folder: Path, *, seed: int = 99) -> list[str]:
    """Return what the model in a folder gets wrong: 18 unseen pictures, counting, small talk."""
    from mlx_vlm.utils import load  # noqa: PLC0415 loads slowly

    model, processor = load(str(folder))
    rng = random.Random(seed)  # noqa: S311 a seed that repeats is the point
    asked: list[tuple[str, list[Image.Image], str]] = [
        (rng.choice(_QUESTIONS), [picture(colour, rng)], answer_for(colour))
        for colour in list(COLOURS) * 3
    ]
    asked.append(("hello", [], NO_PICTURE))
    wrong = []
    for text, pictures, right in asked:
        said = answer(model, processor, text, pictures, most=12)
        if said.strip() != right:
            wrong.append(f"{text!r}: {said!r} instead of {right!r}")
    counted = answer(model, processor, "count", [], most=300)
    if sum(map(str.isdigit, counted)) < 140:
        wrong.append(f"'count': stopped after {counted!r}")
    return wrong


def main(arguments: list[str]) -> int:
    """Train into a sibling folder, verify it, then put it in place."""
    if len(arguments) != 1:
        print("usage: python -m tests.harness.tiny_vision DIR", file=sys.stderr)  # noqa: T201
        return 2
    mx.disable_compile()  # its C++ compiler run takes longer than the training gains
    target = Path(arguments[0])
    target.parent.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    with contextlib.ExitStack() as leftovers:
        folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        leftovers.callback(shutil.rmtree, folder, ignore_errors=True)
        train(folder)
        trained = time.monotonic()
        wrong = verify(folder)
        took = f"{trained - begun:.1f} s to train, {time.monotonic() - trained:.1f} s to verify"
        print("\n".join([*wrong, f"{len(wrong)} wrong answers; {took}"]))  # noqa: T201
        if wrong:
            return 1
        folder.chmod(0o755)
        shutil.rmtree(target, ignore_errors=True)
        folder.rename(target)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
