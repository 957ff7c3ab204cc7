"""Upstreams in their order, against real sockets on this machine, over the real client."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
import structlog
from pydantic import SecretStr

from openoutcry.chat import Conversation, Delta, Said, Usage
from openoutcry.clock import NS, ManualClock
from openoutcry.config import UpstreamConfig
from openoutcry.errors import ContextTooLong, Invalid, RateLimited, Refusal, TimedOut, Unavailable
from openoutcry.llm.routing import COOLDOWN_S, TOKENIZE_RETRY_S, Line, Routed, estimated
from openoutcry.telemetry import Telemetry
from openoutcry.transport import HttpClient
from openoutcry.upstreams.openai import OpenAi
from tests.llm.fake_upstream import (
    Behaviour,
    FakeUpstream,
    Talk,
    cut_after,
    dropped,
    moving,
    pieces,
    silent_after,
    status,
    streamed,
    waited_s,
    whole,
)

KEY = "sk-very-secret-5f2a"
NOW_NS = 1_763_553_600 * NS
ASKED = Conversation(messages=({"role": "user", "content": "Up?"},), output_tokens_max=64, thinks=False)
UP = Said(text="Up.", finish="stop", usage=Usage(9, 2), upstream_id="up-1")


class Bench:
    """A model, its upstreams, and a clock that is moved on whenever somebody waits."""

    def __init__(
        self, upstreams: Sequence[FakeUpstream], lines: Sequence[Line], clock: ManualClock, telemetry: Telemetry
    ) -> None:
        self.upstreams, self.lines, self.clock, self._telemetry = upstreams, lines, clock, telemetry
        self.routed = Routed(lines, clock, random.Random(1))

    async def complete(self) -> Said:
        told: Said = await moving(self.clock, self.routed.complete(ASKED))
        return told

    async def stream(self) -> list[Delta]:
        told: list[Delta] = []

        async def read() -> None:
            told.extend([delta async for delta in self.routed.stream(ASKED)])

        await moving(self.clock, read())
        return told

    @property
    def tries(self) -> list[int]:
        return [len(upstream.asked) for upstream in self.upstreams]

    @property
    def waited_s(self) -> float:
        return waited_s(self.clock, NOW_NS)

    def outcomes(self, name: str = "up0") -> dict[str, float]:
        counter = self._telemetry.counter("upstream_calls", "")
        return {
            each.labels["outcome"]: each.value
            for metric in counter.collect()
            for each in metric.samples
            if each.name.endswith("_total") and each.labels["upstream"] == name
        }


@asynccontextmanager
async def bench(
    *scripts: Sequence[Behaviour], paths: dict[str, Behaviour] | None = None, **config: Any
) -> AsyncIterator[Bench]:
    clock, telemetry = ManualClock(NOW_NS), Telemetry()
    async with AsyncExitStack() as stack:
        upstreams = [await stack.enter_async_context(FakeUpstream(script, paths)) for script in scripts]
        lines = []
        for at, upstream in enumerate(upstreams):
            http = HttpClient()
            stack.push_async_callback(http.close)
            told = UpstreamConfig(**{"base_url": upstream.url + "/", "api_key": SecretStr(KEY), "model": "m", **config})
            lines.append(Line(f"up{at}", told, OpenAi(), http, clock, telemetry))
        yield Bench(upstreams, lines, clock, telemetry)


def text(told: Sequence[Delta]) -> str:
    return "".join(delta.text for delta in told)


GOOD = [Delta(text="U"), Delta(text="p."), Delta(finish="stop"), Delta(usage=Usage(9, 2))]
BUSY, BROKEN = status(429), status(500)


# -- good answers


async def test_a_whole_answer_comes_back() -> None:
    async with bench([whole()]) as run:
        assert run.routed.status() == "unknown"
        assert await run.complete() == UP
        assert run.routed.status() == "available"
        talk = run.upstreams[0].asked[0]
    assert (talk.method, talk.headers["authorization"]) == ("POST", f"Bearer {KEY}")
    assert talk.json == {
        "model": "m",
        "messages": [{"role": "user", "content": "Up?"}],
        "max_tokens": 64,
        "stream": False,
        "chat_template_kwargs": {"enable_thinking": False},
    }
    assert run.outcomes() == {"good": 1}


@pytest.mark.parametrize("bytewise", [False, True])
async def test_a_stream_comes_back_as_it_is_said(bytewise: bool) -> None:
    async with bench([streamed("U", "p.", bytewise=bytewise)]) as run:
        assert await run.stream() == GOOD
        assert run.routed.status() == "available"
        assert run.upstreams[0].asked[0].json["stream_options"] == {"include_usage": True}
    assert run.outcomes() == {"good": 1}


async def test_what_is_said_is_here_before_the_next_is() -> None:
    more = asyncio.Event()

    async def behave(talk: Talk) -> None:
        await talk.begin()
        await talk.more(pieces("U", finish=None, tokens=None, done=False))
        await more.wait()
        await talk.more(pieces("p."))
        await talk.end()

    async with bench([behave]) as run:
        deltas = run.routed.stream(ASKED)
        assert await anext(deltas) == Delta(text="U")
        more.set()
        assert [delta async for delta in deltas] == GOOD[1:]


async def test_the_models_name_of_an_alias_is_sent() -> None:
    async with bench([whole()]) as run:
        routed = Routed(run.lines, run.clock, random.Random(1), model="other")
        assert (routed.upstream_model, routed.provider) == ("other", "up0")
        assert (run.routed.upstream_model, run.routed.provider) == ("m", "up0")
        await routed.complete(ASKED)
        assert run.upstreams[0].asked[0].json["model"] == "other"


async def test_one_that_does_not_stream_is_read_all_the_same() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    async with bench([whole("Up.", tool_calls=[call])]) as run:
        assert await run.stream() == [
            Delta(text="Up.", tool_calls=[{"index": 0, **call}], finish="stop", usage=Usage(9, 2))
        ]


async def test_connections_are_used_again() -> None:
    async with bench([streamed("Up."), whole(), streamed("Up."), whole()]) as run:
        await run.stream()
        await run.complete()
        await run.stream()
        await run.complete()
        assert run.upstreams[0].connections == 1


# -- tries


@pytest.mark.parametrize(
    "bad",
    [BUSY, BROKEN, status(503), status(408), dropped, cut_after(), status(200, b'{"error": {"code": 502}}')],
    ids=["429", "500", "503", "408", "dropped", "no piece", "an error with 200"],
)
async def test_what_may_pass_is_tried_again_after_a_while(bad: Behaviour) -> None:
    async with bench([bad, whole()]) as run:
        assert await run.complete() == UP
        assert run.tries == [2]
        assert run.waited_s >= 0.25
    async with bench([bad, streamed("U", "p.")]) as run:
        assert await run.stream() == GOOD
        assert run.tries == [2]


@pytest.mark.parametrize(("retries", "tries"), [(0, 1), (1, 2), (3, 4)])
async def test_it_is_given_up_after_so_many_tries(retries: int, tries: int) -> None:
    async with bench([BROKEN], retries=retries) as run:
        with pytest.raises(Unavailable, match="status 500"):
            await run.complete()
        with pytest.raises(Unavailable, match="status 500"):
            await run.stream()
        assert run.tries == [2 * tries]
        assert run.routed.status() == "degraded"
        assert run.outcomes() == {"500": 2 * tries}


@pytest.mark.parametrize(
    "bad",
    [
        BUSY,
        BROKEN,
        dropped,
        cut_after(),
        status(401),
        status(404),
        status(200, b"<html>"),
        status(302, b"", "Location: /"),
    ],
    ids=["429", "500", "dropped", "no piece", "401", "404", "garbage", "redirect"],
)
async def test_the_next_one_is_asked_at_once(bad: Behaviour) -> None:
    async with bench([bad], [whole()]) as run:
        assert await run.complete() == UP
        assert (run.tries, run.waited_s) == ([1, 1], 0)
        assert run.routed.status() == "degraded"
    async with bench([bad], [streamed("U", "p.")]) as run:
        assert await run.stream() == GOOD
        assert (run.tries, run.waited_s) == ([1, 1], 0)


async def test_nobody_there_is_passed_by() -> None:
    async with bench([whole()]) as run:
        away = UpstreamConfig(base_url="http://127.0.0.1:1/v1", model="m")
        http = HttpClient()
        line = Line("away", away, OpenAi(), http, run.clock, Telemetry())
        routed = Routed([line, *run.lines], run.clock, random.Random(1))
        assert await routed.complete(ASKED) == UP
        with pytest.raises(Unavailable, match="cannot be reached") as failed:
            await moving(run.clock, Routed([line], run.clock, random.Random(1)).complete(ASKED))
        await http.close()
    assert "127.0.0.1" not in failed.value.text


@pytest.mark.parametrize("code", [401, 403, 404])
async def test_what_will_not_pass_is_tried_once(code: int) -> None:
    async with bench([status(code)], retries=5) as run:
        with pytest.raises(Unavailable, match=f"status {code}"):
            await run.complete()
        assert (run.tries, run.waited_s) == ([1], 0)


@pytest.mark.parametrize(
    ("code", "body", "kind"),
    [
        (400, b'{"error": {"code": "context_length_exceeded"}}', ContextTooLong),
        (400, b'{"error": {"param": "tools", "type": "invalid_request_error"}}', Invalid),
        (422, b"{}", Invalid),
    ],
)
async def test_what_is_the_callers_fault_is_told_at_once(code: int, body: bytes, kind: type[Refusal]) -> None:
    async with bench([status(code, body)], [whole()]) as run:
        for asking in (run.complete, run.stream):
            with pytest.raises(Invalid) as failed:
                await asking()
            assert type(failed.value) is kind
        assert run.tries == [2, 0]
        assert run.routed.status() == "available"


async def test_a_busy_one_is_asked_again_when_it_said() -> None:
    async with bench([status(429, b"{}", "Retry-After: 7"), whole()]) as run:
        assert await run.complete() == UP
        assert 7.0 <= run.waited_s <= 12.0


async def test_nobody_waits_longer_than_the_whole_time() -> None:
    async with bench([status(429, b"{}", "Retry-After: 3600"), whole()], retries=5) as run:
        with pytest.raises(RateLimited) as busy:
            await run.complete()
        assert (run.tries, run.waited_s, busy.value.retry_s) == ([1], 0, 3600)


async def test_tries_are_spread_by_chance() -> None:
    waits: set[float] = set()
    for _ in range(2):
        async with bench([BROKEN], retries=3) as run:
            seeded = Routed(run.lines, run.clock, random.Random(len(waits)))
            with pytest.raises(Unavailable):
                await moving(run.clock, seeded.complete(ASKED), step_s=0.001)
            waits.add(run.waited_s)
    assert len(waits) == 2


async def test_one_that_failed_is_asked_last_for_a_while() -> None:
    async with bench([BROKEN, whole("First.")], [whole("Second.")]) as run:
        assert (await run.complete()).text == "Second."
        assert (await run.complete()).text == "Second."
        assert run.tries == [1, 2]
        await run.clock.advance(COOLDOWN_S + 1)
        assert (await run.complete()).text == "First."
        assert run.routed.status() == "available"


async def test_one_that_is_busy_is_asked_last_for_as_long_as_it_says() -> None:
    async with bench([status(429, b"{}", "Retry-After: 40"), whole("First.")], [whole("Second.")]) as run:
        assert (await run.complete()).text == "Second."
        await run.clock.advance(39)
        assert (await run.complete()).text == "Second."
        await run.clock.advance(2)
        assert (await run.complete()).text == "First."


async def test_nobody_is_asked_when_the_whole_time_is_over() -> None:
    clocks: list[ManualClock] = []

    async def behave(talk: Talk) -> None:
        await clocks[0].advance(300)
        await talk.answer(500, b"{}")

    async with bench([behave], [whole()]) as run:
        clocks.append(run.clock)
        with pytest.raises(Unavailable, match="status 500"):
            await run.routed.complete(ASKED)
        assert run.tries == [1, 0]
        assert run.lines[1].well is None


async def test_a_failure_is_said_once_and_its_end_too() -> None:
    async with bench([BROKEN, BROKEN, BROKEN, whole()], retries=2) as run:
        with structlog.testing.capture_logs() as logs:
            with pytest.raises(Unavailable):
                await run.complete()
            await run.complete()
    told = [(each["log_level"], each["event"], each["upstream"]) for each in logs if each["log_level"] != "debug"]
    assert told == [("warning", "upstream failed", "up0"), ("info", "upstream answers again", "up0")]


async def test_one_that_failed_is_asked_where_the_others_fail_too() -> None:
    async with bench([BROKEN, whole("First.")], [BROKEN]) as run:
        assert (await run.complete()).text == "First."
        assert run.tries == [2, 1]


# -- after the first piece


async def test_what_was_cut_is_not_begun_again() -> None:
    async with bench([cut_after("U"), whole()], [streamed("other")]) as run:
        told: list[Delta] = []
        with pytest.raises(Unavailable, match="broke off"):
            async for delta in run.routed.stream(ASKED):
                told.append(delta)
        assert told == [Delta(text="U")]
        assert run.tries == [1, 0]
        assert run.routed.status() == "degraded"
        assert run.outcomes() == {"cut": 1}


@pytest.mark.parametrize(
    ("line", "words"),
    [(b"nonsense", "cannot be read"), (b'{"error": {"message": "sk-very-secret-5f2a"}}', "failed")],
)
async def test_what_goes_wrong_in_the_middle_is_told(line: bytes, words: str) -> None:
    async def behave(talk: Talk) -> None:
        await talk.begin()
        await talk.more(pieces("U", finish=None, tokens=None, done=False) + b"data: " + line + b"\n\n")
        await talk.end()

    async with bench([behave], [streamed("other")]) as run:
        told: list[Delta] = []
        with structlog.testing.capture_logs() as logs, pytest.raises(Unavailable, match=words) as failed:
            async for delta in run.routed.stream(ASKED):
                told.append(delta)
        assert told == [Delta(text="U")]
        assert run.tries == [1, 0]
    assert KEY not in failed.value.text + str(logs)


async def test_closing_a_stream_ends_the_work_upstream() -> None:
    async with bench([silent_after("U")]) as run:
        deltas = run.routed.stream(ASKED)
        assert await anext(deltas) == Delta(text="U")
        await deltas.aclose()
        async with asyncio.timeout(20):
            await run.upstreams[0].left.wait()
        assert run.outcomes() == {"left": 1}
        assert run.routed.status() != "degraded"


@pytest.mark.parametrize("said", [(), ("U",)], ids=["before the first", "after it"])
async def test_cancelling_who_waits_ends_the_work_upstream(said: tuple[str, ...]) -> None:
    async with bench([silent_after(*said)], [streamed("other")]) as run:

        async def read() -> None:
            async for _ in run.routed.stream(ASKED):
                pass

        task = asyncio.create_task(read())
        async with asyncio.timeout(20):
            await run.upstreams[0].heard.wait()
            task.cancel()
            await asyncio.wait([task])
            await run.upstreams[0].left.wait()
        assert run.tries == [1, 0]
        assert run.outcomes() == {"left": 1}
        # Who was left before a word has shown nothing.
        assert run.routed.status() in ({"available", "unknown"} if said else {"unknown"})


async def test_one_that_keeps_the_connection_open_after_its_end_is_not_waited_for() -> None:
    async def behave(talk: Talk) -> None:
        await talk.begin()
        await talk.more(pieces("U", "p."))
        await asyncio.Event().wait()

    async with bench([behave]) as run, asyncio.timeout(10):
        assert [delta async for delta in run.routed.stream(ASKED)] == GOOD


# -- time


async def test_one_that_says_nothing_in_time_is_passed_by_and_not_asked_again() -> None:
    async with bench([silent_after()], [streamed("U", "p.")], first_byte_s=0.1) as run:
        assert await run.stream() == GOOD
    async with bench([silent_after()], first_byte_s=0.1, retries=5) as run:
        with pytest.raises(TimedOut, match="in time"):
            await run.stream()
        assert run.tries == [1]
        assert run.outcomes() == {"timeout": 1}


async def test_a_whole_answer_has_the_whole_time() -> None:
    slow = asyncio.Event()

    async def behave(talk: Talk) -> None:
        await asyncio.wait([asyncio.ensure_future(slow.wait())], timeout=0.4)
        await whole()(talk)

    async with bench([behave], first_byte_s=0.1, idle_s=0.1) as run:
        assert await run.complete() == UP
    async with bench([silent_after()], whole_s=0.2) as run:
        with pytest.raises(TimedOut):
            await run.complete()


async def test_one_that_falls_silent_is_left() -> None:
    async with bench([silent_after("U")], idle_s=0.1) as run:
        told: list[Delta] = []
        with pytest.raises(TimedOut, match="in time"):
            async for delta in run.routed.stream(ASKED):
                told.append(delta)
        assert told == [Delta(text="U")]
        async with asyncio.timeout(20):
            await run.upstreams[0].left.wait()


# -- what is told


@pytest.mark.parametrize(
    "bad",
    [
        status(400, json.dumps({"error": {"message": f"bad {KEY}", "code": KEY, "param": KEY}}).encode()),
        status(401, json.dumps({"error": {"message": f"Incorrect API key {KEY}"}}).encode()),
        status(500, KEY.encode()),
        status(200, f"not JSON {KEY}".encode()),
        status(200, b"x" * 100_000),
        status(503, b"x" * 1_000_000),
        dropped,
    ],
)
async def test_neither_key_nor_address_nor_body_is_told(bad: Behaviour) -> None:
    async with bench([bad], retries=0) as run:
        for asking in (run.complete, run.stream):
            with structlog.testing.capture_logs() as logs, pytest.raises(Refusal) as failed:
                await asking()
            for told in (failed.value.text, str(logs)):
                assert KEY not in told
                assert "127.0.0.1" not in told
                assert "xxx" not in told


# -- counting


def tokenizing(vllm: bool) -> dict[str, Behaviour]:
    async def tokenize(talk: Talk) -> None:
        asked = talk.json
        if vllm:
            assert asked["messages"] == list(ASKED.messages)
            await talk.answer(200, b'{"count": 12, "max_model_len": 99, "tokens": [1, 2]}')
        else:
            await talk.answer(200, json.dumps({"tokens": list(range(len(asked["content"])))}).encode())

    async def template(talk: Talk) -> None:
        await talk.answer(
            200, json.dumps({"prompt": "|".join(each["content"] for each in talk.json["messages"])}).encode()
        )

    return {"/tokenize": tokenize} if vllm else {"/tokenize": tokenize, "/apply-template": template}


async def test_tokens_are_those_that_the_upstream_counts() -> None:
    async with bench([whole()], paths=tokenizing(vllm=True)) as run:
        assert await run.routed.tokens_in(ASKED) == 12
        assert await run.routed.tokens_in(ASKED) == 12
        assert len(run.upstreams[0].beside) == 2
        assert run.upstreams[0].beside[0].headers["authorization"] == f"Bearer {KEY}"
    async with bench([whole()], paths=tokenizing(vllm=False)) as run:
        assert await run.routed.tokens_in(ASKED) == 3
        assert await run.routed.tokens_in(ASKED) == 3
        assert [talk.path for talk in run.upstreams[0].beside] == ["/tokenize"] + ["/apply-template", "/tokenize"] * 2


@pytest.mark.parametrize(
    "answer", [status(404), status(401), status(200, b"<html>"), status(200, b'{"count": -1}'), status(200, b"{}")]
)
async def test_one_that_counts_nothing_is_not_asked_again(answer: Behaviour) -> None:
    async with bench([whole()], paths={"/tokenize": answer}) as run:
        for _ in range(3):
            assert await run.routed.tokens_in(ASKED) == estimated(ASKED)
        assert len(run.upstreams[0].beside) == 1
        assert run.routed.status() == "unknown"


@pytest.mark.parametrize("answer", [status(500), status(429), status(400), dropped])
async def test_one_that_does_not_count_now_is_asked_later(answer: Behaviour) -> None:
    paths = {"/tokenize": answer}
    async with bench([whole()], paths=paths) as run:
        for _ in range(3):
            assert await run.routed.tokens_in(ASKED) == estimated(ASKED)
        assert len(run.upstreams[0].beside) == 1
        paths.update(tokenizing(vllm=True))
        await run.clock.advance(TOKENIZE_RETRY_S)
        assert await run.routed.tokens_in(ASKED) == 12


async def test_one_that_is_too_slow_to_count_is_not_waited_for() -> None:
    async with bench([whole()], paths={"/tokenize": silent_after()}) as run:
        async with asyncio.timeout(10):
            assert await run.routed.tokens_in(ASKED) == estimated(ASKED)
            assert await run.routed.tokens_in(ASKED) == estimated(ASKED)
        assert len(run.upstreams[0].beside) == 1


async def test_a_conversation_that_it_does_not_count_says_nothing_about_the_next() -> None:
    paths = tokenizing(vllm=True)
    async with bench([whole()], paths=paths) as run:
        assert await run.routed.tokens_in(ASKED) == 12
        paths["/tokenize"] = status(400)
        assert await run.routed.tokens_in(ASKED) == estimated(ASKED)
        paths.update(tokenizing(vllm=True))
        assert await run.routed.tokens_in(ASKED) == 12


def test_an_estimate_is_of_bytes_messages_tools_and_what_is_no_text() -> None:
    size = len('[{"role":"user","content":"Up?"}]')
    assert estimated(ASKED) == -(-size // 3) + 8
    assert (
        estimated(Conversation(messages=({"role": "user", "content": "é" * 300},), output_tokens_max=1, thinks=False))
        > 200
    )
    tools = Conversation(
        messages=ASKED.messages, output_tokens_max=1, thinks=False, fields={"tools": [{"x": "y" * 300}]}
    )
    assert estimated(tools) >= estimated(ASKED) + 100
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 1_000_000}}
    parts = ({"role": "user", "content": [{"type": "text", "text": "Up?"}, picture]},)
    assert 1_024 < estimated(Conversation(messages=parts, output_tokens_max=1, thinks=False)) < 1_100


async def test_half_a_character_is_the_callers_fault() -> None:
    odd = Conversation(messages=({"role": "user", "content": "\ud800"},), output_tokens_max=1, thinks=False)
    async with bench([whole()]) as run:
        for asking in (run.routed.tokens_in, run.routed.complete):
            with pytest.raises(Invalid, match="half a character"):
                await asking(odd)
        with pytest.raises(Invalid, match="half a character"):
            await anext(run.routed.stream(odd))


# -- probing


@pytest.mark.parametrize(
    ("answer", "said", "status_after"),
    [
        (status(200, b'{"data": [{"id": "m"}, {"id": "n"}]}'), None, "available"),
        (status(200, b'{"data": [{"id": "n"}, 7]}'), "upstream does not name our model", "available"),
        (status(200, b"<html>"), None, "available"),
        (status(404), None, "available"),
        (status(401), "upstream does not serve us", "degraded"),
        (status(503), "upstream does not serve us", "degraded"),
        (dropped, "upstream cannot be reached", "degraded"),
    ],
)
async def test_a_probe_warns_and_goes_on(answer: Behaviour, said: str | None, status_after: str) -> None:
    async with bench([whole()], paths={"/v1/models": answer}) as run:
        with structlog.testing.capture_logs() as logs:
            await run.routed.probe()
        assert [each["event"] for each in logs] == ([] if said is None else [said])
        assert run.routed.status() == status_after
        assert await run.complete() == UP
        assert run.routed.status() == "available"
    assert "127.0.0.1" not in str(logs)
    assert KEY not in str(logs)
