"""Pictures that a request names lead nowhere but to what its owner meant to show."""

import asyncio
import base64
import json
import os
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.harness.authority import Authority
from tests.harness.pictures import (
    FETCHES,
    PUBLIC,
    SHOWN,
    body_of,
    fetching,
    leads_to,
    picture,
    png_of,
    seen_by,
    serves,
    shown,
    shows,
    small_network,
    uri_of,
    web,
)
from tests.harness.running_router import openai_provider, running_router
from tests.harness.scripted_upstream import Conversation, ScriptedUpstream
from tests.harness.served import served, tiny

MB = 1_000_000


def assert_refused(answer: httpx2.Response, code: str, status: int = 400) -> str:
    """Check that an answer is this refusal; return its text."""
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, code), error
    assert error["param"] is None or error["param"].startswith("messages[0].content[1]")
    assert answer.headers["x-signalbox-error"] == "1"
    return str(error["message"])


# What is fetched


def _ways_to(port: int) -> list[str]:
    """Return addresses of this machine and its network, in the spellings that are known."""
    hosts = [
        *("127.0.0.1", "localhost", "LOCALHOST.", "a.localhost", "127.1", "0x7f.1", "0"),
        "0.0.0.0",  # noqa: S104 nobody binds to it
        *("2130706433", "017700000001", "0x7f000001", "127.0.0.1.", "10.0.0.1", "172.16.0.1"),
        *("192.168.1.1", "169.254.169.254", "100.64.0.1", "224.0.0.1", "255.255.255.255"),
        *("[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::127.0.0.1]", "[fe80::1]"),
        *("[fd00::1]", "[64:ff9b::7f00:1]", "[64:ff9b::127.0.0.1]", "[2002:7f00:1::]", "[ff02::1]"),
        *("[2001:0:7f00:1::]", "168.63.129.16", "198.18.0.1", "1.2.3.4.5"),
    ]
    return [
        *(f"http://{host}:{port}/a.png" for host in hosts),
        f"https://127.0.0.1:{port}/a.png",
        *(f"http://{odd}" for odd in (f"a\\@127.0.0.1:{port}/", f"a@{SHOWN}:{port}/")),
        *(
            f"http://{odd}"
            for odd in (f"u:p@127.0.0.1:{port}/", f"{SHOWN}:{port}\\@a/", "[::1%25lo]/")
        ),
        *(f"http://{odd}" for odd in ("", "/", ":80/", f"{SHOWN}:0/", f"{SHOWN}:65536/", "a b/")),
        *(
            f"http://{odd}"
            for odd in (f"\uff11\uff12\uff17.0.0.1:{port}/", "\u24dbocalhost/", f"{SHOWN}\t/")
        ),
        *("ftp://127.0.0.1/a.png", "gopher://127.0.0.1/a", "http:127.0.0.1/a", "http:/127.0.0.1/a"),
        *("jar:http://127.0.0.1!/", "//127.0.0.1/a.png"),
    ]


async def test_row_145_no_spelling_of_a_private_address_is_fetched(tmp_path: Path) -> None:
    """Each is refused before anybody is connected to or asked, in whichever clothes it comes."""
    async with (
        ScriptedUpstream() as fm,
        ScriptedUpstream(serves(picture())) as inner,
        running_router(tmp_path, **seen_by(fm, FETCHES)) as signalbox,
    ):
        for url in _ways_to(inner.port):
            code = "image_not_found" if url.startswith("//") else "image_url_not_allowed"
            assert_refused(await signalbox.chat(shows(url)), code)
        assert (fm.connections, inner.connections) == (0, 0)


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "::1", "10.0.0.1", "64:ff9b::7f00:1", "::ffff:127.0.0.1"]
)
async def test_row_145_a_name_that_leads_here_is_not_fetched(tmp_path: Path, address: str) -> None:
    """What counts is where a name leads, and that is refused where it is connected to."""

    async def resolve(_host: str) -> Sequence[str]:
        return [address]

    async with (
        ScriptedUpstream() as fm,
        ScriptedUpstream(serves(picture())) as inner,
        running_router(
            tmp_path, network=small_network(resolve), **seen_by(fm, FETCHES)
        ) as signalbox,
    ):
        answer = await signalbox.chat(shows(f"http://{SHOWN}:{inner.port}/"))
        assert_refused(answer, "image_url_not_allowed")
        assert (fm.connections, inner.connections) == (0, 0)


async def test_row_145_an_address_of_our_own_is_not_fetched(tmp_path: Path) -> None:
    """Though it may be anybody's on the internet; and it counts what it is when it is asked."""
    own = iter([[], [ip_network(PUBLIC)]])
    network = small_network(own=lambda: next(own))
    async with fetching(tmp_path, serves(picture()), network) as (fm, outer, signalbox):
        request = shows(f"http://{SHOWN}:{outer.port}/")
        assert (await signalbox.chat(request)).status_code == 200
        assert_refused(await signalbox.chat(request), "image_url_not_allowed")
        assert (len(fm.seen), len(outer.seen)) == (1, 1)


async def test_row_145_a_cloud_gets_no_private_address_either(tmp_path: Path) -> None:
    """It could not reach it, and need not know of it; a public one it fetches for itself."""
    async with (
        ScriptedUpstream() as proxy,
        running_router(tmp_path, **_cloud(proxy)) as signalbox,
    ):
        for url in _ways_to(80):
            answer = await signalbox.chat(shows(url))
            assert answer.status_code == 400
        assert proxy.connections == 0
        url = f"https://{SHOWN}/cat.png?signed=a%2Fb"
        answer = await signalbox.chat(shows(url))
        assert answer.status_code == 200
        assert shown(proxy.seen[0]) == [url]
        assert "x-signalbox-shims" not in answer.headers


def _cloud(proxy: ScriptedUpstream, images: dict[str, Any] | None = None, **more: Any) -> Any:
    """Return settings in which `vision` is served from afar, behind a proxy that answers for it."""
    there = {
        "kind": "openai",
        "base_url": "http://cloud.example/v1",
        "proxy": f"http://127.0.0.1:{proxy.port}",
    }
    return {
        "providers": {"cloud": there},
        "capabilities": {"vision": ["cloud/eyes"]},
        "images": images or {},
        **more,
    }


@pytest.mark.parametrize(
    "there",
    [
        "http://127.0.0.1:{}/x",
        "http://[::1]:{}/x",
        "http://localhost:{}/",
        "//127.0.0.1:{}/x",
        "ftp://picture.example/",
        "http://a@picture.example/",
    ],
)
async def test_row_146_a_redirect_to_a_private_address_ends_there(
    tmp_path: Path, there: str
) -> None:
    """Each hop is looked at as the first address was."""
    async with (
        ScriptedUpstream() as fm,
        ScriptedUpstream(serves(picture())) as inner,
        web(leads_to(there.format(inner.port))) as outer,
        running_router(tmp_path, network=small_network(), **seen_by(fm, FETCHES)) as signalbox,
    ):
        answer = await signalbox.chat(shows(f"http://{SHOWN}:{outer.port}/"))
        assert_refused(answer, "image_url_not_allowed")
        assert (fm.connections, inner.connections, len(outer.seen)) == (0, 0, 1)


async def test_row_146_a_redirect_within_the_public_is_followed_so_far(tmp_path: Path) -> None:
    """Three times, and relative ones too; a fourth is one too many."""
    hops = 0

    async def script(conversation: Conversation) -> None:
        nonlocal hops
        at = int(conversation.target.rpartition("/")[2])
        hops += 1
        done = at == 0
        await (serves(picture()) if done else leads_to(f"/hop/{at - 1}"))(conversation)

    async with fetching(tmp_path, script) as (_fm, outer, signalbox):
        assert (
            await signalbox.chat(shows(f"http://{SHOWN}:{outer.port}/hop/3"))
        ).status_code == 200
        assert hops == 4
        answer = await signalbox.chat(shows(f"http://{SHOWN}:{outer.port}/hop/4"))
        assert "more than 3 times" in assert_refused(answer, "image_not_found")
        assert hops == 8


async def test_row_147_a_name_is_resolved_once_and_its_address_kept(tmp_path: Path) -> None:
    """Who answers otherwise the second time is not asked a second time; and a later hop anew."""
    asked: list[str] = []

    async def resolve(host: str) -> Sequence[str]:
        asked.append(host)
        return [PUBLIC if len(asked) == 1 else "127.0.0.1"]

    async with (
        fetching(tmp_path, serves(picture()), small_network(resolve)) as (fm, outer, signalbox),
        # Where the second answer leads: the same port of the address that is not public.
        ScriptedUpstream(serves(b"secret"), port=outer.port) as inner,
    ):
        url = f"http://{SHOWN}:{outer.port}/"
        answer = await signalbox.chat(shows(url))
        assert answer.status_code == 200
        assert asked == [SHOWN]
        assert shown(fm.seen[0]) == [uri_of(picture())]
        assert_refused(await signalbox.chat(shows(url)), "image_url_not_allowed")
        assert inner.connections == 0


async def test_row_147_of_several_addresses_the_private_ones_are_not_tried(tmp_path: Path) -> None:
    """Nor when the public one does not answer."""

    async def resolve(_host: str) -> Sequence[str]:
        return ["127.0.0.1", PUBLIC]

    async with (
        fetching(tmp_path, serves(picture()), small_network(resolve)) as (_fm, outer, signalbox),
        ScriptedUpstream(serves(b"secret"), port=outer.port) as inner,
    ):
        url = f"http://{SHOWN}:{outer.port}/"
        assert (await signalbox.chat(shows(url))).status_code == 200
        assert inner.connections == 0


async def test_a_picture_is_asked_for_with_nothing_of_the_clients(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No key, no agent, no proxy of the environment, no cookie; one that is set is forgotten."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")

    async def script(conversation: Conversation) -> None:
        again = not conversation.target.endswith("/2")
        where = {"location": "/2"} if again else {}
        await serves(picture(), 302 if again else 200, set_cookie="a=b", **where)(conversation)

    async with fetching(tmp_path, script) as (_fm, outer, signalbox):
        answer = await signalbox.chat(
            shows(f"http://{SHOWN}:{outer.port}/a.png?b=%2F"),
            authorization="Bearer secret",
            cookie="c=d",
        )
        assert answer.headers["x-signalbox-shims"] == "images"
        assert [each.target for each in outer.seen] == ["/a.png?b=%2F", "/2"]
        for each in outer.seen:
            told = {"host", "accept", "accept-encoding", "user-agent", "connection"}
            assert set(each.headers) == told


async def test_a_picture_over_tls_comes_from_who_can_prove_its_name(
    tmp_path: Path, authority: Authority, small_platform: None
) -> None:
    """A certificate of somebody else's is a picture that could not be fetched."""
    async with fetching(tmp_path, serves(picture()), tls=authority.server(SHOWN)) as (
        fm,
        outer,
        signalbox,
    ):
        answer = await signalbox.chat(shows(f"https://{SHOWN}:{outer.port}/"))
        assert_refused(answer, "image_not_found")
        assert (fm.connections, len(outer.seen)) == (0, 0)


async def _endless(conversation: Conversation) -> None:
    await conversation.send(b"HTTP/1.1 200 OK\r\ncontent-type: image/png\r\n\r\n" + picture())
    while True:
        await conversation.send(bytes(1 << 16))


async def _promises_much(conversation: Conversation) -> None:
    await conversation.send(b"HTTP/1.1 200 OK\r\ncontent-length: 1000001\r\n\r\n")
    await conversation.left()


async def _silent(conversation: Conversation) -> None:
    await conversation.left()


async def _drips(conversation: Conversation) -> None:
    await conversation.send(b"HTTP/1.1 200 OK\r\ncontent-length: 5000\r\n\r\n")
    while True:
        await conversation.send(b"x")
        await asyncio.sleep(0.01)


async def _breaks_off(conversation: Conversation) -> None:
    await conversation.send(b"HTTP/1.1 200 OK\r\ncontent-length: 5000\r\n\r\n" + picture())
    conversation.hang_up()


async def _nonsense(conversation: Conversation) -> None:
    await conversation.send(b"220 mail.example ready\r\n\r\n")
    conversation.close()


@pytest.mark.parametrize(
    ("script", "code"),
    [
        (_endless, "invalid_image"),
        (_promises_much, "invalid_image"),
        (_silent, "image_not_found"),
        (_drips, "image_not_found"),
        (_breaks_off, "image_not_found"),
        (_nonsense, "image_not_found"),
        (serves(picture(), 404), "image_not_found"),
        (serves(b"<html>"), "invalid_image"),
        (serves(png_of(40_000, 40_000)), "invalid_image"),
    ],
)
async def test_row_148_a_huge_slow_or_broken_picture_ends_within_its_caps(
    tmp_path: Path, script: Callable[[Conversation], Awaitable[None]], code: str
) -> None:
    """Bytes, seconds and pixels are bounded; the provider is not asked, and nothing stays held."""
    async with fetching(
        tmp_path,
        script,
        small_network(within_s=0.3 if script in {_silent, _drips} else 20.0),
        images={**FETCHES, "max_mb": 1},
    ) as (fm, outer, signalbox):
        answer = await signalbox.chat(shows(f"http://{SHOWN}:{outer.port}/"))
        assert_refused(answer, code)
        assert fm.connections == 0
        assert signalbox.router.buffered.held == 0


async def test_row_148_what_is_fetched_counts_as_held(tmp_path: Path) -> None:
    """A picture that all requests together have no room for is refused as a body is."""
    big = picture("PNG") + bytes(3 * MB)
    async with fetching(tmp_path, serves(big), limits={"body_mb": 1, "buffered_mb": 2}) as (
        fm,
        outer,
        signalbox,
    ):
        answer = await signalbox.chat(shows(f"http://{SHOWN}:{outer.port}/"))
        assert_refused(answer, "queue_full", 429)
        assert fm.connections == 0
        assert signalbox.router.buffered.held == 0


async def test_row_148_a_picture_that_is_named_often_counts_as_often(
    tmp_path: Path, root: Path
) -> None:
    """It is read once, and a body holds it wherever it is named: that has room, or is refused."""
    (root / "big.png").write_bytes(picture() + bytes(MB))
    async with ScriptedUpstream() as fm:
        settings = seen_by(fm, {"local_roots": [str(root)]})
        limits = {"body_mb": 1, "buffered_mb": 5}
        async with running_router(tmp_path, limits=limits, **settings) as signalbox:
            named = f"{root}/big.png"
            assert (await signalbox.chat(shows(*[named] * 3))).status_code == 200
            assert_refused(await signalbox.chat(shows(*[named] * 9)), "queue_full", 429)
            assert len(fm.seen) == 1
            assert signalbox.router.buffered.held == 0


async def test_who_leaves_ends_the_fetching(tmp_path: Path) -> None:
    """A client that is gone leaves nobody waiting for its picture."""
    asked, left = asyncio.Event(), asyncio.Event()

    async def script(conversation: Conversation) -> None:
        asked.set()
        await conversation.left()
        left.set()

    async with fetching(tmp_path, script) as (fm, outer, signalbox):
        task = asyncio.create_task(signalbox.chat(shows(f"http://{SHOWN}:{outer.port}/")))
        await asked.wait()
        task.cancel()
        async with asyncio.timeout(2):
            await left.wait()
        assert fm.connections == 0


# What a picture is


_BOMB = png_of(40_000, 25_000)
_TIFF = b"II*\0" + bytes(100)
_JPEG_2000 = b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(100)


@pytest.mark.parametrize(
    ("data", "media_type", "says"),
    [
        (_BOMB, "image/png", "40000 × 25000"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image/svg+xml", "none of PNG"),
        (_TIFF, "image/tiff", "none of PNG"),
        (_JPEG_2000, "image/jp2", "none of PNG"),
        (picture("GIF", 3000, 3000, 6), "image/gif", "in 6 frames"),
        (picture("WEBP", 3000, 3000, 6), "image/webp", "in 6 frames"),
        (picture("PNG", 3000, 3000, 6), "image/png", "in 6 frames"),
        (picture("JPEG")[:20], "image/jpeg", "cut short"),
        (picture("PNG")[:20], "image/png", "cut short"),
    ],
)
async def test_row_149_bombs_and_strange_formats_are_refused_unseen(
    tmp_path: Path, data: bytes, media_type: str, says: str
) -> None:
    """By their first bytes and the size that these tell; nobody decodes them to find out."""
    async with (
        ScriptedUpstream() as fm,
        running_router(tmp_path, **seen_by(fm)) as signalbox,
    ):
        answer = await signalbox.chat(shows(uri_of(data, media_type)))
        assert says in assert_refused(answer, "invalid_image")
        assert fm.connections == 0


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP"])
async def test_row_149_a_picture_of_a_known_format_passes_as_it_came(
    tmp_path: Path, kind: str
) -> None:
    """Small ones that move as well; not a byte of the request is another."""
    async with (
        ScriptedUpstream() as fm,
        running_router(tmp_path, **seen_by(fm)) as signalbox,
    ):
        frames = 1 if kind == "JPEG" else 3
        uri = uri_of(picture(kind, frames=frames), f"image/{kind.lower()}")
        messages = json.dumps(shows(uri)["messages"], indent=3).encode()
        answer = await signalbox.chat(b'{"messages":' + messages + b"}")
        assert answer.status_code == 200
        assert messages in fm.seen[0].body
        assert "x-signalbox-shims" not in answer.headers


# What lies on this machine


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a folder from which pictures may be named, with one in it and one beside it."""
    folder = tmp_path / "pictures"
    (folder / "inner").mkdir(parents=True)
    (folder / "cat.png").write_bytes(picture())
    (folder / "inner" / "a b.png").write_bytes(picture())
    (tmp_path / "secret.png").write_bytes(picture("PNG", 9, 9))
    return folder


def _local(fm: ScriptedUpstream, root: Path, **more: Any) -> Any:
    return seen_by(fm, {"local_roots": [str(root)], **more})


async def test_row_150_what_lies_elsewhere_is_as_if_it_were_missing(
    tmp_path: Path, root: Path
) -> None:
    """One text answers all, so that nobody learns what there is."""
    (tmp_path / "pictures2").mkdir()
    (tmp_path / "pictures2" / "x.png").write_bytes(picture())
    paths = [
        *("file:///etc/passwd", "/etc/passwd", "~/.ssh/id_rsa", "/nowhere", "cat.png", "", "C:\\x"),
        *(f"{root}/../secret.png", f"{root}/inner/../../secret.png", f"{root}/%2e%2e/secret.png"),
        *(f"file://{root}/%2e%2e/secret.png", f"file://{root}/..%2fsecret.png"),
        *(f"file://elsewhere{root}/cat.png", f"{root}/missing.png", f"{root}/cat.png\0.txt"),
        *(f"{root}2/x.png", str(root), f"{root}/", f"{root}/inner", f"file:{root}/cat.png"),
        *(f"{root}/{'x' * 300}.png", f"{root}/{'x' * 5000}", f"{root}/cat.png/x", "/"),
        *(f"file://{root}/cat.png?x", f"file://{root}/cat.png%00", "file://", "/proc/self/environ"),
        *(str(tmp_path / "secret.png"), f" {root}/cat.png", f"{tmp_path}/elsewhere/cat.png"),
    ]
    async with (
        ScriptedUpstream() as fm,
        running_router(tmp_path, **_local(fm, root)) as signalbox,
    ):
        texts = {
            assert_refused(await signalbox.chat(shows(path)), "image_not_found") for path in paths
        }
        assert len(texts) == 1
        assert str(tmp_path) not in texts.pop()
        assert fm.connections == 0


async def test_row_150_without_roots_no_path_is_read(tmp_path: Path, root: Path) -> None:
    """That is how it is unless its owner names a folder."""
    async with ScriptedUpstream() as fm, running_router(tmp_path, **seen_by(fm)) as signalbox:
        assert_refused(await signalbox.chat(shows(f"{root}/cat.png")), "image_not_found")
        assert fm.connections == 0


async def test_row_151_links_lead_nowhere(tmp_path: Path, root: Path) -> None:
    """Symbolic ones, to files and folders, out of the root and within it; and a second name."""
    (root / "out.png").symlink_to(tmp_path / "secret.png")
    (root / "in.png").symlink_to(root / "cat.png")
    (root / "up").symlink_to(tmp_path)
    (root / "same").symlink_to(root / "inner")
    os.link(tmp_path / "secret.png", root / "hard.png")
    async with (
        ScriptedUpstream() as fm,
        running_router(tmp_path, **_local(fm, root)) as signalbox,
    ):
        for name in ("out.png", "in.png", "up/secret.png", "same/a b.png", "hard.png"):
            assert_refused(await signalbox.chat(shows(f"{root}/{name}")), "image_not_found")
        assert fm.connections == 0


@contextmanager
def _again_and_again(swap: Callable[[], None]) -> Iterator[None]:
    """Swap in a thread, as fast as it can be done."""
    over = threading.Event()

    def work() -> None:
        while not over.is_set():
            swap()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _a_file_and_a_link(root: Path, secret: Path) -> Callable[[], None]:
    def swap() -> None:
        (root / "a").write_bytes(picture())
        (root / "a").replace(root / "cat.png")
        (root / "b").symlink_to(secret)
        (root / "b").replace(root / "cat.png")

    return swap


def _a_folder_and_a_link(root: Path, secret: Path) -> Callable[[], None]:
    (root / "there").mkdir()
    (root / "there" / "cat.png").write_bytes(picture())
    (secret.parent / "cat.png").write_bytes(secret.read_bytes())

    def swap() -> None:
        (root / "there").rename(root / "away")
        (root / "there").symlink_to(secret.parent)
        (root / "there").unlink()
        (root / "away").rename(root / "there")

    return swap


def _two_contents(root: Path, secret: Path) -> Callable[[], None]:
    whole, half = picture(), picture()[:-20]

    def swap() -> None:
        (root / "cat.png").write_bytes(half)
        (root / "cat.png").write_bytes(whole)

    return swap


@pytest.mark.parametrize(
    ("game", "name"),
    [
        (_a_file_and_a_link, "cat.png"),
        (_a_folder_and_a_link, "there/cat.png"),
        (_two_contents, "cat.png"),
    ],
)
async def test_row_151_what_is_swapped_while_it_is_read_never_shows_another(
    tmp_path: Path, root: Path, game: Callable[[Path, Path], Callable[[], None]], name: str
) -> None:
    """In 500 rounds each answer is the picture meant, or that there is none."""
    swap = game(root, tmp_path / "secret.png")
    secret = base64.b64encode((tmp_path / "secret.png").read_bytes())
    async with (
        ScriptedUpstream() as fm,
        running_router(tmp_path, **_local(fm, root)) as signalbox,
    ):
        with _again_and_again(swap):
            answers = [await signalbox.chat(shows(f"{root}/{name}")) for _ in range(500)]
        seen = {answer.status_code for answer in answers}
        assert seen <= {200, 400}
        assert 400 in seen, "nothing was ever swapped at the right moment"
        refusals = {
            answer.json()["error"]["code"] for answer in answers if answer.status_code == 400
        }
        assert refusals <= {"image_not_found", "invalid_image"}
        assert not any(secret in each.body for each in fm.seen)


async def test_row_152_what_is_no_plain_file_is_refused_at_once(tmp_path: Path, root: Path) -> None:
    """Nobody waits at a FIFO, reads a device without end, or five gigabytes that are not there."""
    os.mkfifo(root / "fifo.png")
    with (root / "huge.png").open("wb") as file:
        file.truncate(5 << 30)
    there = socket.socket(socket.AF_UNIX)
    there.bind(str(root / "s"))
    paths = [f"{root}/{name}" for name in ("fifo.png", "inner", "s")]
    with there:
        async with ScriptedUpstream() as fm, asyncio.timeout(20):
            settings = seen_by(fm, {"local_roots": [str(root), "/dev"]})
            async with running_router(tmp_path, **settings) as signalbox:
                for path in (*paths, "/dev/zero", "/dev/tty"):
                    assert_refused(await signalbox.chat(shows(path)), "image_not_found")
                answer = await signalbox.chat(shows(f"{root}/huge.png"))
                assert "images.max_mb" in assert_refused(answer, "invalid_image")
            assert fm.connections == 0


async def test_row_153_a_file_of_this_machine_is_not_shown_to_a_cloud(
    tmp_path: Path, root: Path
) -> None:
    """Not even where it may be named, unless its owner says so; the next local model may see it."""
    async with ScriptedUpstream() as cloud, ScriptedUpstream() as fm:
        settings: dict[str, Any] = {
            "providers": {
                "cloud": openai_provider(cloud.url, locality="remote"),
                "fm": openai_provider(fm.url),
            },
            "capabilities": {"vision": ["cloud/eyes"]},
            "images": {"local_roots": [str(root)]},
        }
        request = shows(f"{root}/cat.png")
        async with running_router(tmp_path, **settings) as signalbox:
            for path in (f"{root}/cat.png", f"{root}/missing.png"):
                text = assert_refused(await signalbox.chat(shows(path)), "remote_not_allowed", 403)
            assert "allow_local_files_to_cloud" in text
            assert cloud.connections == 0
        settings["capabilities"] = {"vision": ["cloud/eyes", "fm/eyes"]}
        async with running_router(tmp_path, **settings) as signalbox:
            answer = await signalbox.chat(request)
            assert answer.headers["x-signalbox-provider"] == "fm"
            assert answer.headers["x-signalbox-attempts"] == "1"
            assert cloud.connections == 0
        settings["images"] = {"local_roots": [str(root)], "allow_local_files_to_cloud": True}
        async with running_router(tmp_path, **settings) as signalbox:
            answer = await signalbox.chat(request)
            assert answer.headers["x-signalbox-provider"] == "cloud"
            assert shown(cloud.seen[0]) == [uri_of(picture())]


@pytest.mark.parametrize(
    "spelled",
    [
        "{}/inner/a b.png",
        "file://{}/inner/a%20b.png",
        "FILE://localhost{}/inner/a%20b.png",
        "{}//inner/./a b.png",
        "~/pictures/inner/a b.png",
    ],
)
async def test_row_154_a_path_goes_no_further_than_here(
    tmp_path: Path, root: Path, spelled: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The provider gets the picture, and not a word of where it lay."""
    monkeypatch.setenv("HOME", str(tmp_path))
    async with (
        ScriptedUpstream() as fm,
        running_router(tmp_path, **_local(fm, root)) as signalbox,
    ):
        answer = await signalbox.chat(shows(spelled.format(root)))
        assert answer.status_code == 200
        assert shown(fm.seen[0]) == [uri_of(picture())]
        assert b"inner" not in fm.seen[0].body
        assert b"pictures" not in fm.seen[0].body
        assert answer.headers["x-signalbox-shims"] == "images"


# What is written out in the request


@pytest.mark.parametrize(
    "uri",
    [
        "data:image/png;base64,%%%",
        "data:image/png;base64,",
        "data:image/png;base64,iVBORw0KGgo",
        "data:image/png;base64,iVBORw0KGgo=iVBORw0KGgo=",
        "data:image/png,plain",
        "data:image/png;base64",
        "data:;base64,iVBORw0KGgo=",
        "data:text/plain;base64,aGVsbG8=",
        "data:",
        uri_of(picture(), "image/jpeg"),
        uri_of(picture("JPEG"), "image/png"),
        uri_of(picture()) + "\n",
        uri_of(picture()).replace("base64,", "base64, "),
        "data:" + "a" * 5000 + ";base64," + uri_of(picture())[22:],
    ],
)
async def test_row_155_a_data_uri_that_is_not_what_it_says_is_refused(
    tmp_path: Path, uri: str
) -> None:
    """Base64 that is none, another type than is declared, nothing at all."""
    async with ScriptedUpstream() as fm, running_router(tmp_path, **seen_by(fm)) as signalbox:
        assert_refused(await signalbox.chat(shows(uri)), "invalid_image")
        assert fm.connections == 0


async def test_row_155_a_large_one_is_refused_by_its_length(tmp_path: Path) -> None:
    """A hundred megabytes that are no base64: had they been decoded, that would be the reason."""
    async with (
        ScriptedUpstream() as fm,
        running_router(tmp_path, limits={"body_mb": 200}, **seen_by(fm)) as signalbox,
    ):
        uri = "data:image/png;base64," + "%" * (100 << 20)
        answer = await signalbox.chat(shows(uri))
        assert "images.max_mb" in assert_refused(answer, "invalid_image")
        assert fm.connections == 0


async def test_row_149_many_pictures_that_take_long_to_look_at_keep_nobody_waiting(
    tmp_path: Path,
) -> None:
    """Each is a moving one of thousands of frames in few bytes: others have their turn between."""
    frame = b"," + bytes(4) + b"\1\0\1\0" + b"\0" + b"\2\0"
    film = b"GIF89a\1\0\1\0\0\0\0" + frame * 4000
    body = body_of(shows(*[uri_of(film, "image/gif")] * 64))
    longest = 0.0
    async with ScriptedUpstream() as fm, running_router(tmp_path, **seen_by(fm)) as signalbox:
        clock = asyncio.get_running_loop().time
        asking = asyncio.create_task(signalbox.chat(body))
        last = clock()
        while not asking.done():
            await asyncio.sleep(0.001)
            longest, last = max(longest, clock() - last), clock()
        assert (await asking).status_code == 200
    assert longest < 0.4


async def test_a_picture_that_is_named_in_many_ways_counts_as_many(tmp_path: Path) -> None:
    """Each of them is looked at, so that `limits.images` holds for all of them together."""
    uri = uri_of(picture())
    part = {"type": "image_url", "image_url": {"url": uri, "path": uri}, "image": uri}
    request = shows(uri)
    request["messages"][0]["content"].append(part)
    async with ScriptedUpstream() as fm:
        for most, status in ((4, 200), (3, 400)):
            limits = {"images": most}
            async with running_router(tmp_path, limits=limits, **seen_by(fm)) as signalbox:
                answer = await signalbox.chat(request)
                assert answer.status_code == status
        assert_refused(answer, "too_many_images")
        assert len(fm.seen) == 1


async def test_row_155_one_bad_picture_among_good_ones_is_named(tmp_path: Path) -> None:
    """The error says which of them it is."""
    async with ScriptedUpstream() as fm, running_router(tmp_path, **seen_by(fm)) as signalbox:
        answer = await signalbox.chat(shows(uri_of(picture()), uri_of(picture()), "data:x"))
        assert answer.json()["error"]["param"] == "messages[0].content[3].image_url.url"


# The child


@pytest.mark.mlx
async def test_row_156_the_child_writes_nothing_where_a_request_says(
    tmp_path: Path, tiny_vision_model: Path
) -> None:
    """What mlx-vlm's own server would take for a place to write to is nothing to the backend."""
    there = tmp_path / "out.png"
    settings = {**tiny(tiny_vision_model), "capabilities": {"vision": ["builtin/tiny"]}}
    async with served(tmp_path, **settings) as router:
        request = shows(uri_of(picture("PNG", 64, 64)), max_tokens=4, output_path=str(there))
        answer = await router.client.post("/v1/chat/completions", json=request)
        assert answer.status_code == 200, answer.text
        odd = await router.client.post(
            "/v1/chat/completions", json={**request, "response_format": "path"}
        )
        assert odd.status_code == 400
        assert not there.exists()
