"""Forms are read strictly, and go on with another model and no other byte changed."""

import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from python_multipart import parse_form

from router.errors import Refused
from router.form import decode_form

KIND = b"multipart/form-data; boundary=b0"
AUDIO = b"RIFF\r\n--\r\n--b\r\n\x00\xff"


def _part(name: str, content: bytes, *more: str) -> bytes:
    lines = [f'Content-Disposition: form-data; name="{name}"', *more]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + content


FILE = _part("file", AUDIO).replace(b'"file"', b'"file"; filename="a.wav"')


def _form(*parts: bytes, boundary: bytes = b"b0") -> bytes:
    pieces = [b"--%b\r\n%b\r\n" % (boundary, part) for part in parts]
    return b"".join(pieces) + b"--%b--\r\n" % boundary


def _seen(data: bytes, kind: bytes = KIND) -> dict[str, Any]:
    """Return what another reader makes of a form."""
    found: dict[str, Any] = {}

    def keep(part: Any) -> None:
        name = (part.field_name or b"").decode()
        if hasattr(part, "file_object"):
            part.file_object.seek(0)
            found[name] = part.file_object.read()
        else:
            found[name] = part.value

    headers = {"Content-Type": kind, "Content-Length": str(len(data)).encode()}
    parse_form(headers, io.BytesIO(data), keep, keep)
    return found


def test_a_form_goes_on_with_another_model_and_no_other_byte_changed() -> None:
    """What stands before and after the name stays where it was."""
    data = _form(_part("language", b"de"), _part("model", b"auto"), FILE)
    form = decode_form(data, KIND)
    assert form.fields == {"model": "auto"}
    assert form.encode({"model": "whisper-1"}) == data.replace(
        b"\r\nauto\r\n", b"\r\nwhisper-1\r\n"
    )


def test_a_form_that_names_the_providers_model_is_not_copied() -> None:
    """The very bytes that came go on."""
    data = _form(_part("model", b"whisper-1"), FILE)
    assert decode_form(data, KIND).encode({"model": "whisper-1"}) is data
    assert decode_form(data, KIND).encode({"model": "whisper-2"}) != data


def test_a_form_without_a_model_gets_one() -> None:
    """As a JSON body does."""
    data = _form(FILE)
    sent = decode_form(data, KIND).encode({"model": "w"})
    assert _seen(sent) == {"model": b"w", "file": AUDIO}
    assert sent.endswith(data)


def test_an_empty_form_is_one() -> None:
    """It needs a model, and gets it."""
    assert _seen(decode_form(b"--b0--", KIND).encode({"model": "w"})) == {"model": b"w"}


@pytest.mark.parametrize(
    ("kind", "boundary"),
    [
        (b"multipart/form-data; boundary=b0", b"b0"),
        (b'Multipart/Form-Data;boundary="b 0"', b"b 0"),
        (b"multipart/form-data; charset=utf-8; boundary=----W0", b"----W0"),
        (b"multipart/form-data; Boundary=b=0", b"b=0"),
    ],
)
def test_a_boundary_may_be_spelled_as_http_allows(kind: bytes, boundary: bytes) -> None:
    """Quoted or not, after other parameters or before."""
    data = _form(_part("model", b"m"), _part("stream", b"true"), boundary=boundary)
    assert decode_form(data, kind).fields == {"model": "m", "stream": "true"}


@pytest.mark.parametrize(
    "kind",
    [
        b"multipart/form-data",
        b"multipart/form-data; boundary=",
        b"multipart/form-data; boundary=a; boundary=b",
        b"multipart/form-data; boundary=" + b"b" * 71,
        b'multipart/form-data; boundary="b',
        b'multipart/form-data; boundary="b "',
        b"multipart/form-data; boundary=b\xff",
        b"multipart/form-data; boundary=b, multipart/form-data; boundary=c",
        b"multipart/form-datax; boundary=b0",
    ],
)
def test_a_boundary_is_named_once_and_clearly(kind: bytes) -> None:
    """Two readers could cut the form at different places else."""
    with pytest.raises(Refused) as refused:
        decode_form(b"--b0--", kind)
    assert refused.value.code == "invalid_request"


MODEL = _part("model", b"m")


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "does not begin"),
        (b"\r\n--b0--", "does not begin"),
        (b"hello\r\n" + _form(MODEL), "does not begin"),
        (b"--b0", "begins like its boundary"),
        (b"--b0x\r\n" + MODEL, "begins like its boundary"),
        (_form(MODEL).replace(b"--b0--\r\n", b"--b0 --\r\n"), "begins like its boundary"),
        (_form(_part("file", b"\r\n--b0z\r\n")), "begins like its boundary"),
        (_form(MODEL)[:-8], "breaks off"),
        (b"--b0\r\n" + MODEL, "breaks off"),
        (_form(MODEL) + b"more", "follows its end"),
        (_form(b"\r\n\r\nm"), "headers that cannot be read"),
        (
            _form(b"Content-Disposition: form-data; name=model\r\n folded\r\n\r\nm"),
            "cannot be read",
        ),
        (_form(b"Content-Disposition: form-data; name=model\nX: y\r\n\r\nm"), "cannot be read"),
        (
            _form(_part("model", b"m", "content-disposition: form-data; name=file")),
            "cannot be read",
        ),
        (_form(b"X-Other: y\r\n\r\nm"), "no form-data"),
        (_form(b"Content-Disposition: attachment; name=model\r\n\r\nm"), "no form-data"),
        (_form(b"Content-Disposition: form-data\r\n\r\nm"), "has no name"),
        (_form(b"Content-Disposition: form-data; name=x; name=model\r\n\r\nm"), "two ways"),
        (_form(b"Content-Disposition: form-data; name=x; name*=UTF-8''model\r\n\r\nm"), "two ways"),
        (_form(_part("mo\\del", b"m")), "two ways"),
        (_form(b"Content-Disposition: form-data; name=x y\r\n\r\nm"), "cannot be read"),
        (_form(MODEL, FILE, MODEL), "two parts named model"),
        (_form(_part("stream", b"true"), _part("stream", b"false")), "two parts named stream"),
        (_form(MODEL.replace(b'"model"', b'"model"; filename="m"')), "plain text"),
        (_form(_part("model", b"m", "Content-Type: application/json")), "plain text"),
        (_form(_part("model", b"bQ==", "Content-Transfer-Encoding: base64")), "plain text"),
        (_form(_part("model", b"\xff")), "not UTF-8"),
        (_form(*[_part("x", b"")] * 1024), "more than 1024 parts"),
        (_form(_part("model", b"m", "X: " + "y" * 9000)), "breaks off"),
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(data: bytes, told: str) -> None:
    """The error says what is wrong with the form."""
    with pytest.raises(Refused) as refused:
        decode_form(data, KIND)
    assert refused.value.code == "invalid_request"
    assert told in refused.value.message


_NAMES = st.text("abcmodelfile[]", min_size=1, max_size=6).filter(lambda name: name != "model")
_CONTENTS = st.binary(max_size=60).filter(lambda content: b"\r\n--b0" not in content)


@given(
    st.lists(st.tuples(_NAMES, _CONTENTS), max_size=6, unique_by=lambda pair: pair[0]),
    st.none() | st.tuples(st.text("abc/-", max_size=9), st.integers(0, 6)),
)
def test_another_reader_sees_the_form_that_was_authorised(
    others: list[tuple[str, bytes]], model: tuple[str, int] | None
) -> None:
    """Whatever the parts hold, only the model's name differs at the provider."""
    parts = [_part(name, content) for name, content in others]
    if model is not None:
        parts.insert(model[1], _part("model", model[0].encode()))
    form = decode_form(_form(*parts), KIND)
    assert form.fields.get("model") == (model[0] if model is not None else None)
    assert _seen(form.encode({"model": "ours"})) == {**dict(others), "model": b"ours"}


@given(st.binary(max_size=200), st.integers(0, 200))
def test_no_bytes_raise_anything_but_a_refusal(noise: bytes, at: int) -> None:
    """A form may be damaged anywhere."""
    whole = _form(_part("language", b"de"), MODEL, FILE)
    for data in (noise, whole[:at] + noise + whole[at:], whole[:at]):
        try:
            decode_form(data, KIND)
        except Refused as refused:
            assert refused.code == "invalid_request"  # noqa: PT017 either is fine
