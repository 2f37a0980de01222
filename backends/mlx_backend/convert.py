"""GGUF → an MLX folder that `mlx_vlm.utils.load` reads without the network.

`python -m backends.mlx_backend.convert SOURCE.gguf TARGET_DIR` prints one JSON object a line,
`{"stage": …, "done": …, "total": …}`, and ends with status 0 once TARGET_DIR is complete. It is
written under another name and renamed at the end, so it never exists by halves. On failure the
status is 1 and the last line of stderr says why.
"""

import argparse
import contextlib
import json
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn, cast

import mlx.core as mx
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from backends.mlx_backend.gguf import GgufError, Header, read_header

Progress = Callable[[str, int, int], None]

# How many weights share a scale in every quantised type that MLX reads.
_GROUP = 32
_WORD_BITS = 32
_CONTROL_TOKEN = 3
_USER_TOKEN = 4

# llama.cpp's tensor names → the names of Hugging Face's llama.
_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def convert(
    source: Path, target: Path, progress: Progress, generation: Mapping[str, float | bool]
) -> None:
    """Write the MLX folder `target` from a GGUF file of the llama architecture.

    `generation` goes into generation_config.json: sampling defaults, of which a GGUF has none.

    Raises GgufError when the file is damaged or of another kind, FileExistsError when `target` is
    there already, OSError when it cannot be written.
    """
    if target.exists():
        raise FileExistsError(f"{target} is there already")
    progress("checking", 0, 1)
    header = read_header(source)
    config, tokenizer = _config(header), _tokenizer(header)
    with contextlib.ExitStack() as leftovers:
        folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        leftovers.callback(shutil.rmtree, folder, ignore_errors=True)
        config |= _write_weights(source, header, folder, progress)
        progress("writing", 0, 1)
        _write_tokenizer(folder, header, tokenizer)
        _write_json(folder / "config.json", config)
        _write_json(folder / "generation_config.json", {**_generation(header), **generation})
        folder.chmod(0o755)  # mkdtemp's folder is for its owner only
        folder.rename(target)
    progress("writing", 1, 1)


def _config(header: Header) -> dict[str, Any]:
    architecture = header.text("general.architecture")
    if architecture != "llama":
        raise GgufError(f"architecture {architecture!r} is not supported, only 'llama' is")
    scaling = header.metadata.get("llama.rope.scaling.type", "none")
    names = {tensor.name for tensor in header.tensors}
    if scaling != "none" or "rope_freqs.weight" in names:
        raise GgufError("scaled rotary positions are not supported")
    hidden, heads = (
        header.count("llama.embedding_length"),
        header.count("llama.attention.head_count"),
    )
    if not heads or hidden % heads:
        raise GgufError(f"{hidden} hidden values cannot be shared by {heads} heads")
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": hidden,
        "num_hidden_layers": header.count("llama.block_count"),
        "intermediate_size": header.count("llama.feed_forward_length"),
        "num_attention_heads": heads,
        "num_key_value_heads": header.count("llama.attention.head_count_kv", heads),
        "head_dim": header.count("llama.attention.key_length", hidden // heads),
        "rms_norm_eps": _float32(header.number("llama.attention.layer_norm_rms_epsilon")),
        "max_position_embeddings": header.count("llama.context_length"),
        "rope_theta": _float32(header.number("llama.rope.freq_base", 10000.0)),
        # llama.cpp stores q and k with the two halves of each head interleaved.
        "rope_traditional": True,
        "tie_word_embeddings": "output.weight" not in names,
        "vocab_size": len(header.texts("tokenizer.ggml.tokens")),
        **_generation(header),
    }


def _float32(value: float) -> float:
    """Return the shortest decimal that names the same 32-bit float."""
    return float(f"{value:.7g}")


def _generation(header: Header) -> dict[str, Any]:
    """Return the token ids at which a model begins, ends and pads."""
    ids = {
        "bos_token_id": header.count("tokenizer.ggml.bos_token_id"),
        "eos_token_id": header.count("tokenizer.ggml.eos_token_id"),
    }
    return {
        **ids,
        "pad_token_id": header.count("tokenizer.ggml.padding_token_id", ids["eos_token_id"]),
    }


def _write_weights(
    source: Path, header: Header, folder: Path, progress: Progress
) -> dict[str, Any]:
    """Write model.safetensors as the file is quantised; return what config.json says of that."""
    loaded = cast("dict[str, mx.array]", mx.load(str(source)))
    quantization: dict[str, Any] = {"group_size": _GROUP, "bits": 4}
    weights = {}
    for done, (name, array) in enumerate(sorted(loaded.items())):
        module, _, part = _renamed(name).rpartition(".")
        # Scales decide in what precision MLX computes: half floats are 30 times slower on a CPU
        # and wrong enough there to change answers. Packed weights stay as they are.
        packs = array.dtype == mx.uint32
        weights[f"{module}.{part}"] = array if packs else array.astype(mx.float32)
        if part == "scales":
            packed = loaded[name.removesuffix("scales") + "weight"]
            bits = packed.shape[-1] * _WORD_BITS // (array.shape[-1] * _GROUP)
            if bits != quantization["bits"]:
                quantization[module] = {"group_size": _GROUP, "bits": bits}
        if done % 50 == 0:
            progress("weights", done, len(loaded))
    stored = {_renamed(tensor.name) for tensor in header.tensors}
    if missing := stored - weights.keys():
        raise GgufError(f"MLX did not read {min(missing)}")
    mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "mlx"})
    progress("weights", len(loaded), len(loaded))
    return {"quantization": quantization} if any(n.endswith("scales") for n in weights) else {}


def _renamed(name: str) -> str:
    """Return the Hugging Face name of one of llama.cpp's tensors."""
    stem, _, part = name.rpartition(".")
    layer = ""
    if stem.startswith("blk.") and stem.count(".") > 1:
        _, number, stem = stem.split(".", 2)
        layer = f"model.layers.{number}."
    if stem not in _NAMES:
        raise GgufError(f"tensor {name!r} is not part of a llama model")
    return f"{layer}{_NAMES[stem]}.{part}"


def _tokenizer(header: Header) -> Tokenizer:
    """Build the byte-level BPE that the metadata describes."""
    model = header.text("tokenizer.ggml.model")
    before = header.text("tokenizer.ggml.pre", "gpt-2")
    splits: dict[str, list[Any]] = {
        "gpt-2": [],
        # Digits stand alone: "2026" is four tokens.
        "smollm": [pre_tokenizers.Digits(individual_digits=True)],
    }
    if model != "gpt2" or before not in splits:
        raise GgufError(f"tokenizer {model}/{before} is not supported")
    tokens = header.texts("tokenizer.ggml.tokens")
    kinds = header.counts("tokenizer.ggml.token_type")
    merges = [merge.partition(" ") for merge in header.texts("tokenizer.ggml.merges")]
    ids = {token: number for number, token in enumerate(tokens)}
    if len(ids) != len(tokens) or len(kinds) != len(tokens):
        raise GgufError("the tokenizer's lists contradict each other")
    for left, _, right in merges:
        if not {left, right, left + right} <= ids.keys():
            raise GgufError(f"the merge {left!r} {right!r} names a token that does not exist")
    tokenizer = Tokenizer(
        models.BPE(vocab=ids, merges=[(left, right) for left, _, right in merges])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [*splits[before], pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    for kind, special in ((_CONTROL_TOKEN, True), (_USER_TOKEN, False)):
        tokenizer.add_tokens(
            [
                AddedToken(token, special=special, normalized=False)
                for token, its in zip(tokens, kinds, strict=True)
                if its == kind
            ]
        )
    return tokenizer


def _write_tokenizer(folder: Path, header: Header, tokenizer: Tokenizer) -> None:
    tokenizer.save(str(folder / "tokenizer.json"))
    tokens = header.texts("tokenizer.ggml.tokens")
    named = {
        f"{name.removesuffix('_id')}": tokens[number]
        for name, number in _generation(header).items()
        if number < len(tokens)
    }
    _write_json(
        folder / "tokenizer_config.json",
        {
            # The class that takes tokenizer.json as it is; the named ones bring their own splits.
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": header.count("llama.context_length"),
            "clean_up_tokenization_spaces": False,
            **named,
        },
    )
    if "tokenizer.chat_template" in header.metadata:
        template = header.text("tokenizer.chat_template")
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def _report(stage: str, done: int, total: int) -> None:
    line = json.dumps({"stage": stage, "done": done, "total": total})
    print(line, flush=True)  # noqa: T201 the parent reads it


def _leave(_signal: int, _frame: object) -> NoReturn:
    # As an exception, so that what was begun is removed on the way out.
    raise SystemExit(1)


def main(arguments: list[str]) -> int:
    """Convert as the command line says; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m backends.mlx_backend.convert")
    parser.add_argument("source", type=Path, metavar="SOURCE.gguf")
    parser.add_argument("target", type=Path, metavar="TARGET_DIR")
    parser.add_argument(
        "--generation", type=json.loads, default={}, help="sampling defaults, as a JSON object"
    )
    wanted = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, _leave)
    # The GPU belongs to the backend; nothing here is worth a second context.
    mx.set_default_device(mx.cpu)
    try:
        convert(wanted.source, wanted.target, _report, wanted.generation)
    except (GgufError, OSError, RuntimeError) as error:  # RuntimeError is what MLX raises
        print(f"cannot convert {wanted.source}: {error}", file=sys.stderr)  # noqa: T201 for the parent
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
