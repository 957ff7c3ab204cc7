"""Pieces of streamed answers of language models: `python -m bench.upstreams`.

An upstream in a process of its own sends each of STREAMS callers PIECES pieces, each in a chunk of its own. Ours reads them
through the front door: connection, routing, server-sent events, JSON, thoughts told apart. The floor is the same HTTP client
that takes the same bytes and reads nothing. Reading alone stands beside msgspec's reading of the JSON into a typed struct,
found in the bytes already.
"""

import asyncio
import random
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable

import httpx2
import msgspec
import uvloop

from bench.tables import Row, print_table
from openoutcry.chat import Conversation
from openoutcry.clock import SystemClock
from openoutcry.config import UpstreamConfig
from openoutcry.llm.routing import Line, Routed
from openoutcry.telemetry import Telemetry
from openoutcry.transport import HttpClient
from openoutcry.upstreams.openai import OpenAi

TITLE = "streamed answers of a language model"
UNIT = "pieces per CPU second"
STREAMS = 100
PIECES = 300
PAUSE_S = 0.005
READ = 100_000
JSON = (
    b'{"id":"chatcmpl-1","object":"chat.completion.chunk","created":1795653939,"model":"m","choices":[{"index":0,'
    b'"delta":{"content":" word"},"logprobs":null,"finish_reason":null}],"usage":null}'
)
PIECE = b"data: " + JSON + b"\n\n"
END = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
ASKED = Conversation(messages=({"role": "user", "content": "Up?"},), output_tokens_max=PIECES, thinks=False)


class _Said(msgspec.Struct):
    content: str


class _Part(msgspec.Struct):
    delta: _Said
    finish_reason: str | None


class _Chunk(msgspec.Struct):
    choices: list[_Part]


def table() -> list[Row]:
    """Reading alone, and all of it over sockets."""
    with subprocess.Popen([sys.executable, "-m", "bench.upstreams", "serve"], stdout=subprocess.PIPE) as upstream:
        assert upstream.stdout is not None
        url = f"http://127.0.0.1:{int(upstream.stdout.readline())}/v1"
        try:
            sockets = uvloop.run(over_sockets(url))
        finally:
            upstream.kill()
    return [Row("read", *reading(), UNIT), Row(f"{STREAMS} streams over sockets", *sockets, UNIT)]


def reading() -> tuple[float, float]:
    reader, decoder = OpenAi().reader(), msgspec.json.Decoder(_Chunk)
    began_s = time.process_time()
    for _ in range(READ):
        for _delta in reader.feed(PIECE):
            pass
    ours_s = time.process_time() - began_s
    began_s = time.process_time()
    for _ in range(READ):
        decoder.decode(JSON)
    return READ / ours_s, READ / (time.process_time() - began_s)


async def over_sockets(url: str) -> tuple[float, float]:
    http, clock = HttpClient(connections_max=STREAMS), SystemClock()
    line = Line("up", UpstreamConfig(base_url=url, model="m"), OpenAi(), http, clock, Telemetry())
    routed = Routed([line], clock, random.Random(1))

    async def ours() -> int:
        return sum([bool(delta.text) async for delta in routed.stream(ASKED)])

    limits = httpx2.Limits(max_connections=STREAMS)
    async with httpx2.AsyncClient(trust_env=False, limits=limits, timeout=60) as client:

        async def floor() -> int:
            async with client.stream("POST", f"{url}/chat/completions", content=b"{}") as answer:
                return sum([1 async for _ in answer.aiter_raw()])

        rates = await rate(ours), await rate(floor)
    await http.close()
    return rates


async def rate(read: Callable[[], Awaitable[int]]) -> float:
    await read()
    began_s = time.process_time()
    taken = sum(await asyncio.gather(*(read() for _ in range(STREAMS))))
    # Two that came in one read would be one here: then they did not cost what a piece costs.
    assert taken >= 0.9 * STREAMS * PIECES, f"{taken} pieces were told apart"
    return taken / (time.process_time() - began_s)


async def serve() -> None:
    """Tell the port on standard output, and answer until killed."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(PIECES):
            writer.write(b"%x\r\n%s\r\n" % (len(PIECE), PIECE))
            await asyncio.sleep(PAUSE_S)
        writer.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(END), END))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        uvloop.run(serve())
    print_table(TITLE, table())
