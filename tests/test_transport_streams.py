"""Answers that are read as they come, over real sockets on this machine."""

import asyncio
import gzip
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openoutcry.transport import (
    Arriving,
    HttpClient,
    Patience,
    TransportError,
    TransportTimeout,
    Unconnected,
    UnconnectedTimeout,
)

HEAD = b"HTTP/1.1 200 OK\r\nX-Odd-Name: v\r\nTransfer-Encoding: chunked\r\n\r\n"
LONG = Patience(connect_s=20, first_byte_s=20, idle_s=20, whole_s=20)

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serving(talk: Talk) -> AsyncIterator[str]:
    """An HTTP server that hands each question's connection to `talk`; yields its address. All talks must have ended."""
    talks: list[asyncio.Task[None]] = []

    async def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        talks.append(task)
        try:
            await talk(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(meet, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        async with asyncio.timeout(20):
            await asyncio.gather(*talks)


@asynccontextmanager
async def client(**more: int) -> AsyncIterator[HttpClient]:
    http = HttpClient(**more)
    try:
        yield http
    finally:
        await http.close()


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


async def question(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    told = next((line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), b":0")
    return head + await reader.readexactly(int(told.split(b":")[1]))


async def gone(reader: asyncio.StreamReader) -> None:
    """Return when the other side has closed."""
    try:
        while await reader.read(65_536):
            pass
    except ConnectionError:
        pass  # broken off, which is closed too


async def taken(arriving: Arriving) -> list[bytes]:
    return [part async for part in arriving]


async def test_bytes_are_here_as_soon_as_they_are_sent() -> None:
    more = asyncio.Event()
    asked: list[bytes] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await question(reader))
        writer.write(HEAD + chunk(b"one"))
        await more.wait()
        writer.write(chunk(b"two") + b"0\r\n\r\n")

    async with client() as http, serving(talk) as url:
        arriving = await http.begin("POST", f"{url}/x", headers={"a": "b"}, body=b"{}", patience=LONG)
        assert (arriving.status, arriving.headers["x-odd-name"]) == (200, "v")
        parts = aiter(arriving)
        assert await anext(parts) == b"one"
        more.set()
        assert [part async for part in parts] == [b"two"]
        await arriving.close()
        await arriving.close()
    assert asked[0].startswith(b"POST /x HTTP/1.1\r\n")
    assert asked[0].endswith(b"\r\n\r\n{}")
    assert b"\r\na: b\r\n" in asked[0]


async def test_a_connection_whose_answer_was_read_is_used_again() -> None:
    connections = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        for _ in range(2):
            await question(reader)
            writer.write(HEAD + chunk(b"all") + b"0\r\n\r\n")

    async with client() as http, serving(talk) as url:
        for _ in range(2):
            assert await taken(await http.begin("GET", url, patience=LONG)) == [b"all"]
    assert connections == 1


async def test_closing_breaks_the_connection_off_at_once() -> None:
    broken = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await question(reader)
        writer.write(HEAD + chunk(b"one"))
        await gone(reader)
        broken.set()

    async with client() as http, serving(talk) as url:
        arriving = await http.begin("GET", url, patience=LONG)
        await anext(aiter(arriving))
        await arriving.close()
        async with asyncio.timeout(20):
            await broken.wait()


async def test_a_reader_that_is_cancelled_breaks_the_connection_off() -> None:
    broken = asyncio.Event()
    reading = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await question(reader)
        writer.write(HEAD + chunk(b"one"))
        await gone(reader)
        broken.set()

    async with client() as http, serving(talk) as url:

        async def read() -> None:
            async for _ in await http.begin("GET", url, patience=LONG):
                reading.set()

        task = asyncio.create_task(read())
        async with asyncio.timeout(20):
            await reading.wait()
            task.cancel()
            await asyncio.wait([task])
            await broken.wait()


async def test_who_reads_slowly_makes_the_other_side_wait() -> None:
    sent = 0
    stuck = asyncio.Event()
    whole = 64 * 1024 * 1024

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await question(reader)
        writer.write(HEAD)
        block = chunk(bytes(65_536))
        try:
            while sent < whole:
                writer.write(block)
                sent += 65_536
                drained = asyncio.ensure_future(writer.drain())
                await asyncio.wait(
                    [drained], timeout=1.0
                )  # a drained block takes no time; one that is not takes for ever
                if not drained.done():
                    stuck.set()
                await drained
        except ConnectionError:
            pass  # the reader has left, as it should

    async with client(body_bytes_max=2 * whole) as http, serving(talk) as url:
        arriving = await http.begin("GET", url, patience=LONG)
        await anext(aiter(arriving))
        async with asyncio.timeout(20):
            await stuck.wait()
        assert sent < whole
        await arriving.close()


@pytest.mark.parametrize("first", [b"", HEAD], ids=["no head", "no body"])
async def test_the_first_bytes_are_waited_for_so_long(first: bytes) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await question(reader)
        writer.write(first)
        await gone(reader)

    async with client() as http, serving(talk) as url:
        with pytest.raises(TransportTimeout, match="nothing came in time"):
            await taken(
                await http.begin("GET", url, patience=Patience(connect_s=20, first_byte_s=0.1, idle_s=20, whole_s=20))
            )


@pytest.mark.parametrize(("idle_s", "whole_s"), [(0.1, 20.0), (20.0, 0.3)], ids=["idle", "whole"])
async def test_the_next_bytes_are_waited_for_so_long(idle_s: float, whole_s: float) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await question(reader)
        writer.write(HEAD + chunk(b"one"))
        await gone(reader)

    async with client() as http, serving(talk) as url:
        arriving = await http.begin(
            "GET", url, patience=Patience(connect_s=20, first_byte_s=20, idle_s=idle_s, whole_s=whole_s)
        )
        parts = aiter(arriving)
        assert await anext(parts) == b"one"
        async with asyncio.timeout(10):
            with pytest.raises(TransportTimeout, match="nothing more came in time"):
                await anext(parts)


async def test_one_that_drips_is_left_when_the_whole_time_is_over() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await question(reader)
        writer.write(HEAD)
        try:
            while True:
                writer.write(chunk(b"."))
                await writer.drain()
                await asyncio.sleep(0)
        except ConnectionError:
            pass  # the reader has left, as it should

    async with client() as http, serving(talk) as url:
        with pytest.raises(TransportTimeout, match="nothing more came in time"):
            await taken(
                await http.begin("GET", url, patience=Patience(connect_s=9, first_byte_s=9, idle_s=9, whole_s=0.3))
            )


async def test_a_body_above_the_limit_is_refused_while_it_arrives() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await question(reader)
        writer.write(HEAD + chunk(bytes(600)))
        await gone(reader)

    async with client(body_bytes_max=500) as http, serving(talk) as url:
        with pytest.raises(TransportError, match="larger than 500"):
            await taken(await http.begin("GET", url, patience=LONG))


@pytest.mark.parametrize(
    "raw",
    [
        b"nonsense\r\n\r\n",
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort",
        HEAD + b"zz\r\n",
        HEAD + chunk(b"1"),
    ],
    ids=["no HTTP", "nothing", "cut", "no chunk", "no last chunk"],
)
async def test_a_broken_answer_is_an_error_without_an_address(raw: bytes) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await question(reader)
        writer.write(raw)

    async with client() as http, serving(talk) as url:
        with pytest.raises(TransportError) as failed:
            await taken(await http.begin("GET", url, patience=LONG))
    assert "127.0.0.1" not in str(failed.value)
    assert not isinstance(failed.value, Unconnected)


async def test_packed_bytes_are_not_unpacked() -> None:
    bomb = gzip.compress(bytes(10_000_000))

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert b"accept-encoding: identity" in (await question(reader)).lower()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb) + bomb)

    async with client() as http, serving(talk) as url:
        with pytest.raises(TransportError, match="packed"):
            await http.begin("GET", url, patience=LONG)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/", "ftp://127.0.0.1/", "http://[/"])
async def test_one_that_was_not_reached_is_told_apart(url: str) -> None:
    async with client() as http:
        with pytest.raises(Unconnected) as failed:
            await http.begin("GET", url, patience=LONG)
    assert "127.0.0.1" not in str(failed.value)


async def test_more_than_the_connections_there_may_be_wait_as_for_a_connection() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await question(reader)
        writer.write(HEAD + chunk(b"one"))
        await gone(reader)

    async with client(connections_max=1) as http, serving(talk) as url:
        first = await http.begin("GET", url, patience=LONG)
        with pytest.raises(UnconnectedTimeout):
            await http.begin("GET", url, patience=Patience(connect_s=0.1, first_byte_s=20, idle_s=20, whole_s=20))
        await first.close()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=50), max_size=20))
def test_whatever_is_sent_arrives_in_order(parts: list[bytes]) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await question(reader)
        writer.write(HEAD + b"".join(map(chunk, parts)) + b"0\r\n\r\n")

    async def run() -> bytes:
        async with client() as http, serving(talk) as url:
            return b"".join(await taken(await http.begin("GET", url, patience=LONG)))

    assert asyncio.run(run()) == b"".join(parts)
