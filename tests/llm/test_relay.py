"""The relay against a real server on this machine, over the real client."""

import asyncio
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import structlog

from openoutcry.chat import ChatMessage, ChatRequest, Usage
from openoutcry.clock import NS, ManualClock
from openoutcry.errors import RateLimited, Unavailable
from openoutcry.llm.relay import ANSWER_BYTES_MAX, Relay
from openoutcry.telemetry import Telemetry
from openoutcry.transport import HttpClient
from openoutcry.upstreams.openai import OpenAi

KEY = "sk-very-secret-5f2a"
NOW_NS = 1_763_553_600 * NS
REQUEST = ChatRequest(model="m", messages=(ChatMessage("user", "Up?"),), output_tokens_max=64, temperature=0.2)


def answer(status: int, body: bytes, *headers: str) -> bytes:
    head = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", "Content-Type: application/json", *headers]
    return "\r\n".join([*head, "", ""]).encode() + body


GOOD = answer(
    200,
    json.dumps({
        "model": "m-1",
        "choices": [{"message": {"content": "Up."}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 2},
    }).encode(),
)  # fmt: skip
HUNG, DRIPS = b"hangs", b"drips"


class Provider:
    """Answers each call with the next of `script`, and remembers what it was asked."""

    def __init__(self, *script: bytes) -> None:
        self.script = list(script)
        self.heads: list[str] = []
        self.bodies: list[Any] = []
        self.released = asyncio.Event()
        self.talks: set[asyncio.Task[None]] = set()

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talk = asyncio.current_task()
        assert talk is not None
        self.talks.add(talk)
        try:
            await self.answer(reader, writer)
            writer.close()
            await writer.wait_closed()
        except OSError:
            writer.close()  # who asked has left

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = next(
            int(line.split(":")[1]) for line in head.splitlines() if line.lower().startswith("content-length")
        )
        self.heads.append(head)
        self.bodies.append(json.loads(await reader.readexactly(length)))
        told = self.script.pop(0)
        if told is HUNG:
            await self.released.wait()
        elif told is DRIPS:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
            while not self.released.is_set():
                writer.write(b" ")
                await asyncio.sleep(0)
        else:
            writer.write(told)


class Bench:
    """A relay, its provider, and a clock that is moved on whenever the relay waits."""

    def __init__(self, provider: Provider, relay: Relay, clock: ManualClock) -> None:
        self.provider, self.relay, self.clock = provider, relay, clock

    async def complete(self) -> Any:
        call = asyncio.ensure_future(self.relay.complete(REQUEST))
        async with asyncio.timeout(20):
            while not call.done():
                if self.clock.sleepers:
                    await self.clock.advance(0.25)
                await asyncio.sleep(0)
        return await call

    @property
    def waited_s(self) -> float:
        return (self.clock.now_ns() - NOW_NS) / NS


@asynccontextmanager
async def bench(*script: bytes, timeout_s: float = 120.0) -> AsyncIterator[Bench]:
    provider, clock = Provider(*script), ManualClock(NOW_NS)
    server = await asyncio.start_server(provider.talk, "127.0.0.1", 0)
    http = HttpClient(timeout_s, body_bytes_max=ANSWER_BYTES_MAX)
    async with server:
        relay = Relay(
            OpenAi(), f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1/", KEY, model="m", provider="openai",
            http=http, clock=clock, chance=random.Random(1), telemetry=Telemetry(), timeout_s=timeout_s,
        )  # fmt: skip
        yield Bench(provider, relay, clock)
        provider.released.set()
        await http.close()
        await asyncio.gather(*provider.talks)


async def test_a_call_is_sent_as_the_provider_wants_it_and_its_answer_comes_back() -> None:
    async with bench(GOOD) as run:
        told = await run.complete()
    assert (told.text, told.model, told.usage) == ("Up.", "m-1", Usage(9, 2))
    assert run.provider.heads[0].startswith("POST /v1/chat/completions HTTP/1.1\r\n")
    assert f"authorization: bearer {KEY}" in run.provider.heads[0].lower()
    assert run.provider.bodies[0]["max_tokens"] == 64
    assert run.waited_s == 0


@pytest.mark.parametrize(
    "bad", [answer(500, b"{}"), answer(503, b"<html>"), b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"]
)
async def test_what_may_pass_is_tried_again(bad: bytes) -> None:
    async with bench(bad, bad, GOOD) as run:
        assert (await run.complete()).text == "Up."
    assert len(run.provider.bodies) == 3
    assert run.waited_s >= 1.0


async def test_after_three_tries_it_is_given_up() -> None:
    async with bench(*[answer(500, b'{"error": {"code": "server_error"}}')] * 4) as run:
        with pytest.raises(Unavailable, match="failed with status 500: server_error"):
            await run.complete()
    assert len(run.provider.bodies) == 3


async def test_a_busy_one_is_asked_again_when_it_said() -> None:
    async with bench(answer(429, b"{}", "Retry-After: 7"), GOOD) as run:
        assert (await run.complete()).text == "Up."
    assert 7.0 <= run.waited_s <= 8.0


async def test_one_that_is_busy_for_longer_than_we_wait_is_not_waited_for() -> None:
    async with bench(answer(429, b"{}", "Retry-After: 3600"), GOOD) as run:
        with pytest.raises(RateLimited) as busy:
            await run.complete()
    assert busy.value.retry_s == 3600
    assert (len(run.provider.bodies), run.waited_s) == (1, 0)


@pytest.mark.parametrize(
    "bad",
    [
        answer(400, json.dumps({"error": {"message": f"bad {KEY}", "code": KEY}}).encode()),
        answer(401, json.dumps({"error": {"message": f"Incorrect API key {KEY}"}}).encode()),
        answer(302, b"", "Location: http://127.0.0.1:1/"),
        answer(200, f"not JSON {KEY}".encode()),
        answer(200, json.dumps({"choices": [{"message": {"content": 7}}], "model": KEY}).encode()),
        answer(200, b'{"choices": []}'),
    ],
    ids=["bad request", "bad key", "redirect", "garbage", "wrong types", "no choice"],
)
async def test_what_will_not_pass_is_tried_once_and_told_without_key_or_address(bad: bytes) -> None:
    async with bench(bad, GOOD) as run:
        with structlog.testing.capture_logs() as logs, pytest.raises(Unavailable) as failed:
            await run.complete()
    assert len(run.provider.bodies) == 1
    for text in (failed.value.text, str(logs)):
        assert KEY not in text
        assert "127.0.0.1" not in text


async def test_no_one_there_is_tried_again_and_told_without_the_address() -> None:
    async with bench() as run:
        run.relay._url = "http://127.0.0.1:1"
        with structlog.testing.capture_logs() as logs, pytest.raises(Unavailable) as failed:
            await run.complete()
    assert "cannot be reached" in failed.value.text
    assert len(logs) == 2
    assert "127.0.0.1" not in failed.value.text + str(logs)


async def test_one_that_hangs_is_left_after_the_timeout() -> None:
    async with bench(HUNG, timeout_s=0.3) as run:
        with pytest.raises(Unavailable, match=r"cannot be reached|did not answer within"):
            await run.complete()


async def test_one_that_drips_is_left_after_the_timeout() -> None:
    async with bench(DRIPS, timeout_s=0.3) as run:
        with pytest.raises(Unavailable, match=r"did not answer within 0\.3 s"):
            await run.complete()


async def test_an_answer_above_the_limit_is_not_taken() -> None:
    huge = answer(200, b'{"a": "' + b"x" * ANSWER_BYTES_MAX + b'"}')
    async with bench(huge, huge, huge) as run:
        with pytest.raises(Unavailable, match="larger than"):
            await run.complete()


def outcomes(relay: Relay) -> dict[str, float]:
    return {
        s.labels["outcome"]: s.value for m in relay._calls.collect() for s in m.samples if s.name.endswith("_total")
    }


async def test_calls_and_tokens_are_counted() -> None:
    async with bench(answer(500, b""), GOOD) as run:
        await run.complete()
    assert outcomes(run.relay) == {"500": 1, "200": 1}
    assert {s.labels["way"]: s.value for m in run.relay._tokens.collect() for s in m.samples if s.name.endswith("_total")} == {
        "in": 9,
        "out": 2,
    }  # fmt: skip
