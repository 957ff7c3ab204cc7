"""The real clients against real sockets on this machine."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from websockets.asyncio.server import ServerConnection, serve

from openoutcry.transport import BODY_BYTES_MAX, HttpClient, SocketClient, TransportError


@asynccontextmanager
async def answering(raw: bytes) -> AsyncIterator[str]:
    """An HTTP server that sends `raw` to whoever asks; yields its address."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"HTTP/1.1" in head
        writer.write(raw)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_an_answer_comes_back_whole_with_lower_case_headers() -> None:
    http = HttpClient()
    async with answering(b"HTTP/1.1 429 Slow\r\nRetry-After: 3\r\nContent-Length: 2\r\n\r\nno") as url:
        answer = await http.send("GET", f"{url}/x", query=[("a", "1")])
    await http.close()
    assert (answer.status, answer.body, answer.headers["retry-after"]) == (429, b"no", "3")


async def test_a_redirect_is_not_followed() -> None:
    http = HttpClient()
    async with answering(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n") as url:
        assert (await http.send("GET", url)).status == 302
    await http.close()


@pytest.mark.parametrize(
    "raw",
    [b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort", b""],
    ids=["no HTTP", "cut short", "nothing"],
)
async def test_a_broken_answer_is_a_transport_error_without_an_address(raw: bytes) -> None:
    http = HttpClient()
    async with answering(raw) as url:
        with pytest.raises(TransportError) as failed:
            await http.send("GET", url)
    await http.close()
    assert "127.0.0.1" not in str(failed.value)


async def test_a_body_above_the_limit_is_refused_while_it_arrives() -> None:
    http = HttpClient()
    size = BODY_BYTES_MAX + 1
    async with answering(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + bytes(size)) as url:
        with pytest.raises(TransportError, match="larger"):
            await http.send("GET", url)
    await http.close()


async def test_nobody_listening_is_a_transport_error() -> None:
    http = HttpClient()
    with pytest.raises(TransportError):
        await http.send("GET", "http://127.0.0.1:1/")
    with pytest.raises(TransportError):
        await SocketClient().open("ws://127.0.0.1:1/")
    await http.close()


async def test_frames_arrive_as_bytes_until_the_other_side_closes() -> None:
    async def talk(connection: ServerConnection) -> None:
        assert await connection.recv() == "hello"
        await connection.send("text")
        await connection.send(b"binary")
        await connection.close(1012, "restart")

    async with serve(talk, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        socket = await SocketClient().open(f"ws://127.0.0.1:{port}/")
        await socket.send(b"hello")
        got = []
        with pytest.raises(TransportError, match="1012 restart"):
            async for frame in socket:
                got.append(frame)
        await socket.close()
        await socket.close()
    assert got == [b"text", b"binary"]
