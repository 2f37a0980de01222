import codecs
import ipaddress
import json
import random
import shutil
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import UUID

import numpy as np
import pytest
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

mx = pytest.importorskip("mlx.core", reason="MLX has no wheels for this machine")

from llguidance import LLParserLimits  # noqa: E402  comes with MLX
from transformers import AutoTokenizer  # noqa: E402  comes with MLX

from backends.mlx_backend import token_mask  # noqa: E402  imports MLX
from backends.mlx_backend.errors import ChatError  # noqa: E402  below what may be missing
from backends.mlx_backend.generation import Constraint, Tool  # noqa: E402  likewise
from backends.mlx_backend.grammar import check  # noqa: E402  likewise
from backends.mlx_backend.token_mask import Grammars, TokenMask  # noqa: E402  imports MLX

pytestmark = pytest.mark.mlx

COLUMNS = 400  # more than the tokenizer has tokens
CAP = 600


class Vocabulary:
    """The tiny model's tokenizer, and what of it the tests name."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(str(folder))
        self.size = len(self.tokenizer)
        self.ends = {self.id("<|im_end|>"), self.id("<|endoftext|>")}
        self.grammars = Grammars(self.tokenizer, COLUMNS, self.ends)

    def id(self, text: str) -> int:
        return int(self.tokenizer.convert_tokens_to_ids(text))

    def ids(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def text(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=False))


@pytest.fixture(scope="module")
def vocabulary(tiny_vision_model: Path) -> Vocabulary:
    """Return the tokenizer that has the markers of calls and reasoning as tokens."""
    return Vocabulary(tiny_vision_model)


def allowed(mask: TokenMask, columns: int = COLUMNS) -> set[int]:
    """Return the tokens that a mask leaves possible."""
    return set(np.flatnonzero(np.isfinite(np.array(mask.apply(mx.zeros((1, columns)))))).tolist())


def feed(mask: TokenMask, ids: list[int]) -> TokenMask:
    for token in ids:
        assert token in allowed(mask)
        mask.accept(token)
    return mask


class Untrained:
    """A model that knows nothing: random logits, at temperature 1.5.

    After `patience` tokens it would like to come to an end, so that an answer that has none by
    itself gets one.
    """

    def __init__(self, vocabulary: Vocabulary, seed: int, patience: int = 60) -> None:
        self._vocabulary = vocabulary
        self._rng = np.random.default_rng(seed)
        self._patience = patience
        ends = [*vocabulary.ids('"'), *vocabulary.ids("}"), *vocabulary.ids("]")]
        self._wishes = np.zeros(COLUMNS)
        self._wishes[ends] = 20
        thought_end = vocabulary.ids("</think>")
        self._wishes[[*vocabulary.ends, *(thought_end if len(thought_end) == 1 else ())]] = 40

    def next(self, mask: TokenMask, position: int) -> int:
        logits = self._rng.normal(size=COLUMNS) * 3
        if position > self._patience:
            logits += self._wishes
        masked = np.array(mask.apply(mx.array(logits[None, :])))[0]
        return int(np.argmax(masked / 1.5 + self._rng.gumbel(size=COLUMNS)))

    def answer(self, mask: TokenMask, start: str = "") -> str:
        """Return an answer that begins like this; it must come to an end."""
        tokens = self._vocabulary.ids(start)
        feed(mask, tokens)
        for position in range(CAP):
            token = self.next(mask, position)
            mask.accept(token)
            if token in self._vocabulary.ends:
                assert mask.done
                return self._vocabulary.text(tokens)
            tokens.append(token)
        raise AssertionError(f"no end in {self._vocabulary.text(tokens)!r}")


class Colour(Enum):
    RED = "red"
    BLUE = "blue"
    WHITE = "très blanc"


class Closed(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Point(Closed):
    x: int = Field(ge=-5, le=5)
    y: float = Field(gt=0, lt=1)


class Person(Closed):
    name: str = Field(min_length=1, max_length=12)
    age: int | None = Field(None, ge=0, lt=150)
    tags: list[str] = Field(default=[], max_length=2)


class Tree(Closed):
    value: bool
    child: "Tree | None"


class Cat(Closed):
    kind: Literal["cat"]
    lives: Annotated[int, Field(ge=1, le=9)]


class Dog(Closed):
    kind: Literal["dog"]
    colour: Colour


class Open(BaseModel):
    needed: bool


# Types that say themselves what fits them: pydantic writes the schema and judges the answer.
TYPES: list[Any] = [
    bool,
    None,
    int,
    float,
    str,
    dict[str, Any],
    list[Any],
    Any,
    Annotated[int, Field(ge=3, le=7)],
    Annotated[int, Field(gt=-100, lt=100)],
    Annotated[int, Field(ge=1_000)],
    Annotated[int, Field(multiple_of=7)],
    Annotated[int, Field(multiple_of=25, ge=0, le=1000)],
    Annotated[float, Field(ge=-1.5, le=2.25)],
    Annotated[float, Field(gt=0)],
    Annotated[str, Field(min_length=3, max_length=5)],
    Annotated[str, Field(min_length=30)],
    Annotated[str, Field(max_length=0)],
    Annotated[str, Field(pattern=r"^[A-Z]{2}-[0-9]{3,5}$")],
    Annotated[str, Field(pattern=r"^(\+[0-9]{2} )?[0-9 ]{4,8}$")],
    Annotated[str, Field(pattern="é|ü|😀", max_length=6)],
    Annotated[str, Field(pattern="^a+$", max_length=4)],
    Literal["one"],
    Literal["one", "two", 3, True] | None,
    Literal['"quoted"', "back\\slash", "new\nline", "é😀", "\x00\x1f"],
    Colour,
    UUID,
    datetime,
    date,
    time,
    timedelta,
    ipaddress.IPv4Address,
    ipaddress.IPv6Address,
    list[bool],
    Annotated[list[int], Field(min_length=2, max_length=3)],
    tuple[int, bool, str],
    dict[str, Annotated[int, Field(le=9)]],
    Annotated[dict[str, bool], Field(max_length=2)],
    int | None,
    int | str | list[bool],
    Annotated[int, Field(ge=5)] | Annotated[str, Field(max_length=2)],
    Point,
    list[Point],
    Person,
    Annotated[list[Person], Field(min_length=1, max_length=2)],
    Tree,
    Cat | Dog,
    Annotated[Cat | Dog, Field(discriminator="kind")],
    dict[str, Cat],
    Open,
]


@pytest.mark.parametrize("type_", TYPES, ids=str)
@pytest.mark.parametrize("seed", [1, 2])
def test_an_untrained_model_gives_valid_json(vocabulary: Vocabulary, type_: Any, seed: int) -> None:
    """Whatever the model prefers, the answer is what the schema says."""
    adapter = TypeAdapter[Any](type_)
    constraint = Constraint(schema=adapter.json_schema())
    check(constraint)
    answer = Untrained(vocabulary, seed).answer(vocabulary.grammars.start(constraint))
    adapter.validate_json(answer, strict=True)


def test_the_fifty() -> None:
    """There are enough of them."""
    assert len(TYPES) >= 50


@pytest.mark.parametrize(
    ("schema", "is_valid"),
    [
        ({"type": "object"}, lambda value: isinstance(value, dict)),
        ({"const": {"a": [1, "é"]}}, lambda value: value == {"a": [1, "é"]}),
        (
            {"type": "object", "patternProperties": {"^k[0-9]$": {"type": "null"}}}
            | {"additionalProperties": False},
            lambda value: all(len(key) == 2 and value[key] is None for key in value),
        ),
        (
            {"type": "array", "prefixItems": [{"const": 1}], "items": {"const": 2}, "minItems": 3},
            lambda value: value[0] == 1 and set(value[1:]) == {2},
        ),
        (
            {"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 5}]},
            lambda value: 3 <= value <= 5,
        ),
        (
            {"type": "string", "format": "email", "maxLength": 12},
            lambda value: value.count("@") == 1,
        ),
        ({"type": ["integer", "null"], "maximum": -1}, lambda v: v is None or v < 0),
    ],
)
def test_schemas_that_no_type_writes(
    vocabulary: Vocabulary, schema: Any, is_valid: Callable[[Any], bool]
) -> None:
    """The same holds for what people write by hand."""
    for seed in range(4):
        mask = vocabulary.grammars.start(Constraint(schema=schema))
        answer = Untrained(vocabulary, seed, patience=20).answer(mask)
        assert is_valid(json.loads(answer)), answer


# Calls.


class Note(Closed):
    text: str = Field(max_length=20)
    level: Literal["low", "high"]


class Place(Closed):
    where: Annotated[str, Field(pattern=r"^[\"\\/\n\t😀é\x01]{1,6}$")]
    points: list[Point] = Field(max_length=2)


TYPE_OF: dict[str, Any] = {"note": Note, "find_place": Place, "anything": dict[str, Any]}
TOOLS = tuple(
    Tool(name, "", TypeAdapter[Any](type_).json_schema()) for name, type_ in TYPE_OF.items()
)


def calls_in(text: str) -> list[str]:
    """Return the names of the calls that a text consists of, each valid for its tool."""
    names = []
    for block in text.split("</tool_call>\n"):
        body = block.removesuffix("</tool_call>")
        assert body.startswith("<tool_call>\n")
        assert body.endswith("\n")
        call = json.loads(body.removeprefix("<tool_call>"))
        assert list(call) == ["name", "arguments"]
        arguments = json.dumps(call["arguments"])
        TypeAdapter[Any](TYPE_OF[call["name"]]).validate_json(arguments, strict=True)
        names.append(call["name"])
    return names


def test_forced_calls(vocabulary: Vocabulary) -> None:
    """An untrained model that must call tools does, and of each with valid arguments."""
    named: list[str] = []
    counts = set()
    for seed in range(12):
        mask = vocabulary.grammars.start(Constraint(tools=TOOLS, forced=True))
        names = calls_in(Untrained(vocabulary, seed).answer(mask))
        named += names
        counts.add(len(names))
    assert set(named) == set(TYPE_OF)
    assert max(counts) > 1


def test_a_single_call(vocabulary: Vocabulary) -> None:
    """Where calls are not parallel there is exactly one, and the answer ends by itself."""
    for seed in range(6):
        constraint = Constraint(tools=TOOLS, forced=True, parallel=False)
        answer = Untrained(vocabulary, seed).answer(vocabulary.grammars.start(constraint))
        assert len(calls_in(answer)) == 1


def test_a_call_in_free_text(vocabulary: Vocabulary) -> None:
    """Text is free; from the marker on the call is valid, and after it there is no more text."""
    for seed in range(6):
        mask = vocabulary.grammars.start(Constraint(tools=TOOLS))
        free = allowed(mask)
        assert free >= set(vocabulary.ids("Hello <b>, 1 2\n\t")) | vocabulary.ends
        feed(mask, vocabulary.ids("Let me <tool"))
        answer = Untrained(vocabulary, seed).answer(mask, "> see.\n<tool_call>")
        assert calls_in(answer.partition("see.\n")[2])


def test_free_text_is_free(vocabulary: Vocabulary) -> None:
    """Every token may stand in the text, but for the one that would begin reasoning late."""
    mask = vocabulary.grammars.start(Constraint(tools=TOOLS))
    feed(mask, vocabulary.ids("Hello"))
    # A byte from the middle of a character, or one that UTF-8 does not have, begins nothing.
    torn = {i for i in range(vocabulary.size) if not can_begin(raw(vocabulary, i))}
    assert set(range(vocabulary.size)) - torn - allowed(mask) == {vocabulary.id("<think>")}


def raw(vocabulary: Vocabulary, token: int) -> bytes:
    """Return the bytes that a token stands for; a special one stands for its name."""
    return bytes(vocabulary.grammars._vocabulary.decode_bytes([token]))


def can_begin(text: bytes) -> bool:
    """Tell whether bytes are the beginning of something in UTF-8."""
    return codecs.getincrementaldecoder("utf-8")("ignore").decode(text) != "" or (
        len(text) == 1 and 0xC2 <= text[0] <= 0xF4
    )


@pytest.mark.parametrize(("marker", "thinking"), [("<tool_call>", False), ("</think>", True)])
def test_a_marker_cannot_be_spelled(vocabulary: Vocabulary, marker: str, thinking: bool) -> None:
    """Who looks for a marker in the text finds only what the grammar took for one."""
    mask = vocabulary.grammars.start(Constraint(tools=TOOLS), thinking=thinking)
    feed(mask, [token for letter in marker[:-1] for token in vocabulary.ids(letter)])
    assert not {i for i in allowed(mask) if vocabulary.text([i]).startswith(">")}
    assert set(vocabulary.ids("s")) <= allowed(mask)


@pytest.fixture(scope="module")
def spelled(tiny_vision_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Vocabulary:
    """Return a tokenizer that has no token for any marker, like SmolLM2's."""
    folder = tmp_path_factory.mktemp("spelled")
    for name in ("tokenizer_config.json", "config.json"):
        shutil.copy(tiny_vision_model / name, folder)
    whole = json.loads((tiny_vision_model / "tokenizer.json").read_text())
    kept = [token for token in whole["added_tokens"] if token["special"]]
    whole["added_tokens"] = kept
    (folder / "tokenizer.json").write_text(json.dumps(whole))
    vocabulary = Vocabulary(folder)
    assert len(vocabulary.ids("<tool_call>")) > 1
    return vocabulary


def test_calls_where_markers_are_text(spelled: Vocabulary) -> None:
    """A vocabulary without the markers has them spelled, forced or in free text."""
    for seed in range(6):
        mask = spelled.grammars.start(Constraint(tools=TOOLS, forced=True))
        assert calls_in(Untrained(spelled, seed).answer(mask))
        mask = spelled.grammars.start(Constraint(tools=TOOLS, parallel=False))
        assert spelled.ends <= allowed(mask)
        answer = Untrained(spelled, seed).answer(mask, "a < b, <tool see.\n<tool_call>")
        assert len(calls_in(answer.partition("see.\n")[2])) == 1


def test_reasoning_where_markers_are_text(spelled: Vocabulary) -> None:
    """The end of reasoning is found where it is spelled, and only then the schema is in force."""
    constraint = Constraint(schema=TypeAdapter(Point).json_schema())
    mask = spelled.grammars.start(constraint, thinking=True)
    answer = Untrained(spelled, 3).answer(mask, 'Hm {"x": </thin </think>')
    Point.model_validate_json(answer.partition("</think>")[2], strict=True)


# Reasoning.


def test_reasoning_before_a_schema(vocabulary: Vocabulary) -> None:
    """A prompt that ends in reasoning leaves it free up to its end, and it has to come to one."""
    constraint = Constraint(schema=TypeAdapter(Point).json_schema())
    for seed in range(4):
        mask = vocabulary.grammars.start(constraint, thinking=True)
        assert not allowed(mask) & vocabulary.ends
        text = Untrained(vocabulary, seed, patience=30).answer(mask, "Hm <tool_call> {")
        thought, end, answer = text.partition("</think>")
        assert end
        assert "<tool_call>" in thought
        Point.model_validate_json(answer, strict=True)


def test_reasoning_of_an_answers_own(vocabulary: Vocabulary) -> None:
    """A leading block of reasoning is for free answers only."""
    begins = vocabulary.id("<think>")
    assert begins in allowed(vocabulary.grammars.start(Constraint(tools=TOOLS)))
    for constraint in (Constraint(tools=TOOLS, forced=True), Constraint(schema=True)):
        assert begins not in allowed(vocabulary.grammars.start(constraint))
    mask = vocabulary.grammars.start(Constraint(tools=TOOLS))
    feed(mask, vocabulary.ids("<think>Should I <tool_call> it?"))
    assert not allowed(mask) & vocabulary.ends
    feed(mask, vocabulary.ids("</think>\n\nNo."))
    assert vocabulary.ends <= allowed(mask)


# The mask itself.

SMALL: list[tuple[Constraint, str]] = [
    (Constraint(schema={"type": "object"}), '{"count":[1,'),
    (Constraint(schema={"enum": ["red", "reading", "a\nb"]}), '"rea'),
    (Constraint(schema={"type": "integer", "minimum": 17, "maximum": 203}), "20"),
    (Constraint(tools=TOOLS), "I <tool_call>\n"),
    (Constraint(tools=TOOLS, forced=True), '<tool_call>\n{"name": "n'),
]


@pytest.mark.parametrize(("constraint", "text"), SMALL)
def test_masks_equal_brute_force(vocabulary: Vocabulary, constraint: Constraint, text: str) -> None:
    """A token is allowed exactly where a fresh matcher takes it after the same beginning.

    But for text that can only go on in one way: of that the tokenizer's own first token is allowed,
    and not the shorter ones, which the model has never seen there.
    """
    ids = vocabulary.ids(text)
    walked = vocabulary.grammars.start(constraint)
    for length in range(len(ids) + 1):
        fresh = vocabulary.grammars.start(constraint)._matcher
        assert fresh.consume_tokens(ids[:length])
        taken = {i for i in range(vocabulary.size) if fresh.validate_tokens([i])}
        left = allowed(walked)
        assert left <= taken
        if len(left) == 1:
            (forced,) = left
            assert all(raw(vocabulary, forced).startswith(raw(vocabulary, i)) for i in taken)
        else:
            assert left == taken
        feed(walked, ids[length : length + 1])


def test_rows_do_not_disturb_each_other(vocabulary: Vocabulary) -> None:
    """Answers that take turns, one paused meanwhile, come out as each would alone."""
    constraints = [constraint for constraint, _ in SMALL for _ in range(2)]
    alone = [
        Untrained(vocabulary, seed).answer(vocabulary.grammars.start(constraint))
        for seed, constraint in enumerate(constraints)
    ]
    rows = [
        (Untrained(vocabulary, seed), vocabulary.grammars.start(constraint), list[int]())
        for seed, constraint in enumerate(constraints)
    ]
    turns = random.Random(5)  # noqa: S311  an order that repeats is the point
    open_ = list(rows)
    while open_:
        row = turns.choice(open_)
        model, mask, tokens = row
        token = model.next(mask, len(tokens))
        mask.accept(token)
        if token in vocabulary.ends:
            open_.remove(row)
        else:
            tokens.append(token)
    assert [vocabulary.text(tokens) for _, _, tokens in rows] == alone


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16])
@pytest.mark.parametrize("columns", [384, 400, 500])
def test_logits_keep_their_kind(vocabulary: Vocabulary, dtype: Any, columns: int) -> None:
    """What stays possible keeps its logit; columns without a token are impossible."""
    mask = vocabulary.grammars.start(Constraint(schema={"type": "boolean"}))
    logits = mx.random.normal((1, columns)).astype(dtype)
    masked = mask.apply(logits)
    assert (masked.shape, masked.dtype) == (logits.shape, dtype)
    kept = sorted(vocabulary.ids("t") + vocabulary.ids("f"))
    values = np.array(masked.astype(mx.float32))[0]
    assert np.flatnonzero(values > -np.inf).tolist() == kept
    assert values[kept].tolist() == np.array(logits.astype(mx.float32))[0][kept].tolist()


def test_the_end(vocabulary: Vocabulary) -> None:
    """A complete answer leaves the end tokens only, all of them; done says so beforehand."""
    mask = vocabulary.grammars.start(Constraint(schema={"type": "integer", "maximum": 99}))
    feed(mask, vocabulary.ids("9"))
    assert not mask.done
    assert allowed(mask) == vocabulary.ends | {vocabulary.id(digit) for digit in "0123456789"}
    feed(mask, vocabulary.ids("9"))
    assert mask.done
    assert allowed(mask) == vocabulary.ends
    mask.accept(vocabulary.id("<|endoftext|>"))
    assert mask.done


def test_a_token_that_is_not_allowed(vocabulary: Vocabulary) -> None:
    """A token from elsewhere ends this answer with an error, and no other."""
    constraint = Constraint(schema={"type": "boolean"})
    masks = [vocabulary.grammars.start(constraint) for _ in range(2)]
    with pytest.raises(ChatError) as caught:
        masks[0].accept(vocabulary.id("x"))
    assert caught.value.code == "generation_failed"
    assert "<state>" not in caught.value.message
    with pytest.raises(ChatError):
        masks[0].apply(mx.zeros((1, COLUMNS)))
    feed(masks[1], vocabulary.ids("true"))
    assert masks[1].done


def test_an_answer_that_exhausts_its_grammar(
    vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer that becomes too complex fails, and another of the same schema does not."""
    monkeypatch.setattr(token_mask, "LIMITS", LLParserLimits(max_lexer_states=2000))
    constraint = Constraint(schema={"type": "string", "pattern": "a.{12}b"})
    mask, other = (vocabulary.grammars.start(constraint) for _ in range(2))
    letters = random.Random(1)  # noqa: S311  an order that repeats is the point
    feed(mask, vocabulary.ids('"'))
    with pytest.raises(ChatError, match="too many states") as caught:
        for _ in range(2000):
            mask.apply(mx.zeros((1, COLUMNS)))
            mask.accept(vocabulary.id(letters.choice("ab")))
    assert caught.value.code == "generation_failed"
    feed(other, [vocabulary.id(letter) for letter in '"ab'])
    vocabulary.grammars.start(constraint)


def test_a_thousand_properties(vocabulary: Vocabulary) -> None:
    """An object may leave out any of many properties."""
    properties = {f"p{i}": {"type": "null"} for i in range(1000)}
    schema = {"type": "object", "properties": properties, "additionalProperties": False}
    mask = vocabulary.grammars.start(Constraint(schema=schema))
    feed(mask, vocabulary.ids('{"p7":null,"p99'))


def test_a_schema_that_was_not_checked(vocabulary: Vocabulary) -> None:
    """A grammar that cannot be compiled is told apart from an answer that failed."""
    with pytest.raises(ChatError, match="Unimplemented") as caught:
        vocabulary.grammars.start(Constraint(schema={"not": {}}))
    assert caught.value.code == "invalid_request"


def test_a_vocabulary_with_fewer_columns(vocabulary: Vocabulary) -> None:
    """A model whose logits leave out the last tokens of its tokenizer is served all the same."""
    grammars = Grammars(vocabulary.tokenizer, vocabulary.size - 6, vocabulary.ends)
    mask = grammars.start(Constraint(schema={"type": "boolean"}))
    assert allowed(mask, vocabulary.size - 6) == {*vocabulary.ids("t"), *vocabulary.ids("f")}
