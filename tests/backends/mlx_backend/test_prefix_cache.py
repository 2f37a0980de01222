import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

mx = pytest.importorskip("mlx.core", reason="MLX has no wheels for this machine")

from mlx_vlm.models.cache import (  # noqa: E402  imports MLX
    ArraysCache,
    BatchKVCache,
    KVCache,
    RotatingKVCache,
    make_prompt_cache,
)

from backends.mlx_backend.embeddings import cut_span, resumable  # noqa: E402  follows them
from backends.mlx_backend.images import picture_hash  # noqa: E402  likewise
from backends.mlx_backend.prefix_cache import (  # noqa: E402  likewise
    MIN_PREFIX_TOKENS,
    PrefixCache,
    before_picture,
    picture_key_ids,
    pictures_within,
    placeholder_runs,
    supports,
)
from backends.mlx_backend.vision import VisionEncoder  # noqa: E402  likewise
from tests.backends.mlx_backend.seeing import Seeing, pictures  # noqa: E402  likewise

pytestmark = pytest.mark.mlx

_WIDTH = 4
# Two layers of keys and values in float32 and the id itself.
_A_TOKEN = 2 * 2 * _WIDTH * 4 + 8


def fed(ids: Sequence[int]) -> list[KVCache]:
    """Return the caches of two layers that were fed these ids; each column tells its own."""
    caches = [KVCache(), KVCache()]
    grow(caches, ids)
    return caches


def grow(caches: Sequence[KVCache], ids: Sequence[int]) -> None:
    """Feed more ids."""
    for layer, cache in enumerate(caches):
        column = mx.array(list(ids), mx.float32).reshape(1, 1, -1, 1)
        keys = mx.broadcast_to(column, (1, 1, len(ids), _WIDTH)) + layer
        cache.update_and_fetch(keys, -keys)


def held(caches: Sequence[KVCache]) -> list[int]:
    """Return the ids that caches were fed, the same in all layers, in keys and in values."""
    for layer, cache in enumerate(caches):
        keys, values = cache.state
        assert keys.shape == (1, 1, cache.offset, _WIDTH)
        assert mx.array_equal(keys, -values).item()
        assert mx.array_equal(keys[..., 0] - layer, caches[0].state[0][..., 0]).item()
    return [int(number) for number in caches[0].state[0][0, 0, :, 0].tolist()]


def test_the_longest_common_prefix_is_found() -> None:
    """Of several entries the one that goes along farthest answers, cut to what is common."""
    cache = PrefixCache(10**6)
    cache.put(range(40), fed(range(40)))
    branch = [*range(30), *range(100, 130)]
    cache.put(branch, fed(branch))
    tokens, caches = cache.find([*range(30), *range(100, 120), 7, 8])
    assert tokens == 50
    assert caches is not None
    assert held(caches) == [*range(30), *range(100, 120)]
    assert cache.status.hits == 1
    assert cache.status.tokens == 50


def test_one_token_is_left_to_be_fed() -> None:
    """A prompt that is known to its end still needs a token whose logits are looked at."""
    cache = PrefixCache(10**6)
    cache.put(range(40), fed(range(40)))
    assert cache.find(range(40))[0] == 39
    assert cache.find(range(30))[0] == 29
    assert cache.find(range(50))[0] == 40


def test_growing_what_was_found_leaves_the_entry() -> None:
    """The caller's caches are its own, whether they are full, cut, or grown across a block."""
    cache = PrefixCache(10**6)
    ids = [*range(300)]
    cache.put(ids, fed(ids))
    for length in (300, 200, 256, 257):
        tokens, caches = cache.find([*range(length), 5000])
        assert tokens == length
        assert caches is not None
        grow(caches, range(900, 920))
        grow(caches, [7])
        assert held(caches) == [*range(length), *range(900, 920), 7]
        again = cache.find([*ids, 5000])[1]
        assert again is not None
        assert held(again) == ids


def test_growing_what_was_put_leaves_the_entry() -> None:
    """A row goes on with its caches after they were remembered."""
    cache = PrefixCache(10**6)
    for length in (40, 256):
        caches = fed(range(length))
        cache.put(range(length), caches)
        grow(caches, [900, 901])
        found = cache.find([*range(length), 5000])[1]
        assert found is not None
        assert held(found) == [*range(length)]
        assert held(caches) == [*range(length), 900, 901]


def test_the_ids_are_its_own() -> None:
    """What the caller does with its key afterwards changes nothing."""
    cache = PrefixCache(10**6)
    key = np.arange(40)
    cache.put(key, fed(range(40)))
    key[:] = 7
    assert cache.find(range(50))[0] == 40


@pytest.mark.parametrize(("ids", "offset"), [(30, 40), (40, 30)])
def test_only_what_was_fed_and_is_known_is_kept(ids: int, offset: int) -> None:
    """The last token of an answer was never fed; the ids of a cut prompt say how far it goes."""
    cache = PrefixCache(10**6)
    cache.put(range(ids), fed(range(offset)))
    assert cache.find(range(50))[0] == 30


def test_bytes_are_those_of_what_is_used() -> None:
    """The room that a cache holds for later tokens is not kept, and not counted."""
    cache = PrefixCache(10**6)
    caches = fed(range(40))
    assert caches[0].keys.shape[2] == 256
    cache.put(range(40), caches)
    assert cache.status.bytes == 40 * _A_TOKEN


def test_what_is_not_used_is_given_back() -> None:
    """Nothing holds the caller's buffers when it has dropped them."""
    before = mx.get_active_memory()
    cache = PrefixCache(10**7)
    caches = [KVCache()]
    caches[0].update_and_fetch(mx.zeros((1, 1, 5000, 64)), mx.zeros((1, 1, 5000, 64)))
    mx.eval(caches[0].state)
    caches[0].trim(4960)
    cache.put(range(40), caches)
    assert mx.get_active_memory() - before > 2_000_000
    del caches
    assert cache.status.bytes == 40 * (2 * 64 * 4 + 8)
    # MLX may share a buffer that is at most 16 KiB larger than what is asked of it.
    assert mx.get_active_memory() - before < cache.status.bytes + 2 * 16_384


def test_the_longest_unused_goes_first() -> None:
    """Bytes stay within the bound; what was found last stays longest."""
    cache = PrefixCache(100 * _A_TOKEN)
    starts = (0, 1000, 2000)
    for start in starts:
        cache.put(range(start, start + 40), fed(range(start, start + 40)))
        cache.find([*range(40), 1])
        assert cache.status.bytes <= 100 * _A_TOKEN
    known = [cache.find(range(start, start + 50))[0] for start in starts]
    assert known == [40, 0, 40]
    assert cache.status.misses == 1
    assert (cache.status.entries, cache.status.bytes) == (2, 80 * _A_TOKEN)
    assert "2 entries" in repr(cache)


def test_of_what_is_too_large_the_front_is_kept() -> None:
    """A prompt larger than the whole cache still spares its beginning."""
    cache = PrefixCache(100 * _A_TOKEN + 1)
    cache.put(range(300), fed(range(300)))
    assert cache.find(range(300))[0] == 100
    assert cache.status.bytes == 100 * _A_TOKEN


def test_a_longer_prompt_takes_the_place_of_its_beginning() -> None:
    """A conversation has one entry, not one a turn; putting it again adds nothing."""
    cache = PrefixCache(10**6)
    for length in (20, 40, 60, 60, 30):
        cache.put(range(length), fed(range(length)))
    assert (cache.status.entries, cache.status.bytes) == (1, 60 * _A_TOKEN)
    assert cache.find(range(100))[0] == 60


def test_putting_again_is_using() -> None:
    """What comes again, though it is known, is not the next to go."""
    cache = PrefixCache(100 * _A_TOKEN)
    for start in (0, 1000, 0, 2000):
        cache.put(range(start, start + 40), fed(range(start, start + 40)))
    assert cache.find(range(50))[0] == 40


def test_little_is_not_worth_an_entry() -> None:
    """Fewer tokens than the minimum are neither kept nor taken."""
    cache = PrefixCache(10**6)
    cache.put(range(MIN_PREFIX_TOKENS - 1), fed(range(MIN_PREFIX_TOKENS - 1)))
    cache.put([], [KVCache(), KVCache()])
    assert cache.status.entries == 0
    cache.put(range(40), fed(range(40)))
    assert cache.find([*range(MIN_PREFIX_TOKENS - 1), 99, 98]) == (0, None)
    assert cache.find([*range(MIN_PREFIX_TOKENS), 99, 98])[0] == MIN_PREFIX_TOKENS
    assert cache.find([]) == (0, None)


def test_only_plain_keys_and_values_are_supported() -> None:
    """A window that rotates, a recurrent state and a batch cannot be cut at any token."""
    assert supports([KVCache(), KVCache()])
    assert not supports([])
    cache = PrefixCache(10**6)
    for other in (RotatingKVCache(64), ArraysCache(2), BatchKVCache([0])):
        assert not supports([KVCache(), other])
        cache.put(range(40), [*fed(range(40)), other])
    assert cache.status.entries == 0


@given(
    known=st.lists(st.lists(st.integers(0, 2), max_size=40), max_size=6),
    asked=st.lists(st.integers(0, 2), max_size=40),
)
def test_found_is_what_was_fed(known: list[list[int]], asked: list[int]) -> None:
    """Whatever was put, what is found is a prefix of what is asked, and the longest there is."""
    cache = PrefixCache(10**6)
    for ids in known:
        cache.put([*range(16), *ids], fed([*range(16), *ids]))
    tokens, caches = cache.find([*range(16), *asked])

    def common(ids: list[int]) -> int:
        pairs = zip(ids, asked[:-1], strict=False)
        return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(ids), len(asked) - 1))

    best = 16 + max(map(common, known), default=-16) if asked else 0
    assert tokens == (best if known and asked else 0)
    assert caches is None if tokens == 0 else held(caches or []) == [*range(16), *asked][:tokens]


def test_finding_is_quick() -> None:
    """Among 64 entries of 8,000 tokens that differ late, a prompt finds its prefix at once."""
    cache = PrefixCache(10**9)
    rng = np.random.default_rng(7)
    shared = rng.integers(0, 150_000, 7_000)
    for _ in range(64):
        ids = np.concatenate([shared, rng.integers(0, 150_000, 1_000)])
        cache.put(ids, fed(ids.tolist()))
    assert cache.status.entries == 64
    asked = np.concatenate([ids, [1, 2]])
    took = []
    for _ in range(20):
        begun = time.perf_counter()
        assert cache.find(asked)[0] == 8_000
        took.append(time.perf_counter() - begun)
    # 0.3 ms on two cores of an AMD EPYC; the rest is for a machine with other work.
    assert min(took) < 0.005


IMAGE = 9
HASHES = [b"\x01" * 16, b"\xff" * 16]


def test_pictures_are_numbers_that_no_token_has() -> None:
    """Placeholders become the number of their picture's content, all else stays."""
    ids = [1, IMAGE, IMAGE, 2, IMAGE, IMAGE, 3]
    keys = picture_key_ids(ids, IMAGE, HASHES, [2, 2])
    assert [keys[n] for n in (0, 3, 6)] == [1, 2, 3]
    assert keys[1] == keys[2] < 0
    assert keys[4] == keys[5] < 0
    assert keys[1] != keys[4]
    swapped = picture_key_ids(ids, IMAGE, HASHES[::-1], [2, 2])
    assert swapped[1] == keys[4]
    assert ids == [1, IMAGE, IMAGE, 2, IMAGE, IMAGE, 3]
    assert picture_key_ids([1, 2], IMAGE, [], []).tolist() == [1, 2]
    with pytest.raises(ValueError, match="4 placeholders"):
        picture_key_ids(ids, IMAGE, HASHES, [2, 3])


def test_runs_of_placeholders() -> None:
    """How many tokens each picture has stands in the prompt itself."""
    assert placeholder_runs([IMAGE, IMAGE, 1, 2, IMAGE, 3, IMAGE, IMAGE, IMAGE], IMAGE) == [2, 1, 3]
    assert placeholder_runs([1, 2], IMAGE) == []
    assert placeholder_runs([], IMAGE) == []


def test_a_prefix_ends_before_a_picture_or_after_it() -> None:
    """Within a picture it is cut back to before it."""
    keys = np.array([1, 2, -7, -7, -7, 3, -8, -8])
    expected = [0, 1, 2, 2, 2, 5, 6, 6, 8]
    assert [before_picture(keys, tokens) for tokens in range(9)] == expected
    assert [pictures_within(keys, tokens, [3, 2]) for tokens in expected] == [
        0, 0, 0, 0, 0, 1, 1, 1, 2,
    ]  # fmt: skip


def test_a_found_prefix_never_ends_within_a_picture() -> None:
    """An entry that was cut there, or a prompt that is, gives what comes before the picture."""
    cache = PrefixCache(10**6)
    keys = np.array([*range(20), *[-5] * 10, 20, 21])
    cache.put(keys[:25], fed(range(25)))
    assert cache.find(keys)[0] == 20
    cache.put(keys, fed(range(32)))
    assert cache.find(keys)[0] == 31
    assert cache.find(keys[:28])[0] == 20
    other = np.where(keys == -5, -6, keys)
    assert cache.find(other)[0] == 20


@pytest.fixture(scope="module")
def seeing(tiny_vision_model: Path) -> Seeing:
    return Seeing(tiny_vision_model)


def chat(seeing: Seeing, *parts: str | Image.Image) -> tuple[dict[str, Any], list[Image.Image]]:
    """Return the inputs of a conversation: text and pictures, a turn each."""
    shown = [part for part in parts if not isinstance(part, str)]
    return seeing.conversation(parts), shown


def keys_of(seeing: Seeing, inputs: dict[str, Any], shown: Sequence[Image.Image]) -> Any:
    ids, image = inputs["input_ids"][0].tolist(), seeing.model.config.image_token_index
    hashes = [picture_hash(picture) for picture in shown]
    return picture_key_ids(ids, image, hashes, placeholder_runs(ids, image))


WORDS = "please tell me about the weather in Paris today"
RED_ONE, BLUE_ONE = pictures(3)[0], pictures(3)[2]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([WORDS, "hello"], [WORDS, "what is a good story"]),
        ([RED_ONE, WORDS], [RED_ONE, WORDS, "Name the colour."]),
        ([WORDS, WORDS], [WORDS, BLUE_ONE, "colour?"]),
        ([WORDS, RED_ONE, WORDS], [WORDS, RED_ONE, WORDS, BLUE_ONE, "colour?"]),
        ([WORDS, RED_ONE, RED_ONE, "x"], [WORDS, RED_ONE, RED_ONE, BLUE_ONE, RED_ONE, "colour?"]),
        ([WORDS, RED_ONE, "x"], [WORDS, BLUE_ONE, "colour?"]),
    ],
    ids=["text", "in the prefix", "in the suffix", "in both", "several", "another one"],
)
@pytest.mark.parametrize("chunk", [10_000, 5])
def test_going_on_after_a_prefix_equals_reading_all(
    seeing: Seeing, before: list[Any], after: list[Any], chunk: int
) -> None:
    """The logits after a prompt are the same whether its beginning was known or not."""
    language: Any = seeing.model.language_model
    cache = PrefixCache(10**8)
    first, shown = chat(seeing, *before)
    kept = make_prompt_cache(language)
    language(first["input_ids"], cache=kept, **seeing.embeddings(first))
    cache.put(keys_of(seeing, first, shown), kept)

    inputs, shown = chat(seeing, *after)
    ids, embeddings = inputs["input_ids"], seeing.embeddings(inputs)
    assert resumable(language, embeddings)
    whole = language(ids, cache=make_prompt_cache(language), **embeddings).logits[0, -1]
    length = ids.shape[1]
    tokens, caches = cache.find(keys_of(seeing, inputs, shown))
    assert caches is not None
    assert tokens > MIN_PREFIX_TOKENS
    # What was known must not be looked at again.
    embeddings["inputs_embeds"][:, :tokens] = 1e9
    rest = cut_span(embeddings, tokens, length, length)
    left = length - tokens
    for start in range(0, left, chunk):
        stop = min(left, start + chunk)
        part = cut_span(rest, start, stop, left)
        span = ids[:, tokens + start : tokens + stop]
        logits = language(span, cache=caches, **part).logits[0, -1]
    assert mx.allclose(logits, whole, atol=1e-4).item()
    assert int(logits.argmax()) == int(whole.argmax())


def test_a_prefix_within_a_picture_goes_on_before_it(seeing: Seeing) -> None:
    """A prompt that was dropped half-way through a picture is continued from before it."""
    language: Any = seeing.model.language_model
    inputs, shown = chat(seeing, WORDS, BLUE_ONE, "colour?")
    ids, embeddings = inputs["input_ids"], seeing.embeddings(inputs)
    length = ids.shape[1]
    keys = keys_of(seeing, inputs, shown)
    begin = int((keys < 0).argmax())
    part = cut_span(embeddings, 0, begin + 2, length)
    kept = make_prompt_cache(language)
    language(ids[:, : begin + 2], cache=kept, **part)
    cache = PrefixCache(10**8)
    cache.put(keys, kept)
    tokens, caches = cache.find(keys)
    assert tokens == begin
    rest = cut_span(embeddings, tokens, length, length)
    logits = language(ids[:, tokens:], cache=caches, **rest).logits[0, -1]
    whole = language(ids, cache=make_prompt_cache(language), **embeddings).logits[0, -1]
    assert mx.allclose(logits, whole, atol=1e-4).item()


def test_a_picture_in_a_known_prefix_is_not_even_encoded(seeing: Seeing) -> None:
    """A conversation goes on with a new picture; the old one, long forgotten, is not needed."""
    language: Any = seeing.model.language_model
    encoder, cache = VisionEncoder(seeing.model, max_bytes=0), PrefixCache(10**8)
    encoded, lengths = [], []
    turns: list[list[Any]] = [[RED_ONE, WORDS], [RED_ONE, WORDS, BLUE_ONE, "colour?"]]
    for parts in turns:
        inputs, shown = chat(seeing, *parts)
        ids, keys = inputs["input_ids"], keys_of(seeing, inputs, shown)
        tokens, caches = cache.find(keys)
        hashes = [picture_hash(picture) for picture in shown]
        waiting = encoder.start(inputs["pixel_values"], inputs["image_grid_thw"], hashes)
        runs = placeholder_runs(ids[0].tolist(), seeing.model.config.image_token_index)
        waiting.skip(pictures_within(keys, tokens, runs))
        with waiting.answering():
            embeddings = cut_span(seeing.embeddings(inputs), tokens, ids.shape[1], ids.shape[1])
        caches = caches or make_prompt_cache(language)
        logits = language(ids[:, tokens:], cache=caches, **embeddings).logits[0, -1]
        cache.put(keys, caches)
        encoded.append(encoder.status.encoded)
        lengths.append(tokens)
    assert encoded == [1, 2]
    assert lengths[0] == 0 < lengths[1]
    whole = language(ids, cache=make_prompt_cache(language), **seeing.embeddings(inputs))
    assert mx.allclose(logits, whole.logits[0, -1], atol=1e-4).item()
