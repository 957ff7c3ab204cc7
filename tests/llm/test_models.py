"""A call is held, made, and paid once, whatever happens between; failures are free."""

import asyncio
from collections.abc import Callable, Coroutine
from decimal import Decimal
from typing import Any

import pytest

from openoutcry.chat import Delta, Usage
from openoutcry.errors import (
    Forbidden,
    InsufficientFunds,
    Invalid,
    LimitExceeded,
    NotConfigured,
    RateLimited,
    Refusal,
    TimedOut,
    Unavailable,
    UnknownModel,
)
from openoutcry.ledger.postings import Balance
from openoutcry.ledger.tariff import Cost, Tariff
from openoutcry.llm import models as door
from openoutcry.llm.models import Completed, Speaking
from tests.llm.calls import GRANTED, START_NS, Till, ask, heard, says, until

DEADLINE_S = door.WHOLE_S + door.HOLD_GRACE_S


async def refusal_of(asked: Coroutine[Any, Any, object]) -> Refusal:
    with pytest.raises(Refusal) as refused:
        await asked
    return refused.value


async def told(till: Till, *, streams: bool) -> Usage:
    """One call, either way; gives what was paid for."""
    if not streams:
        return (await till.models.complete(till.payer(), ask())).usage
    last = (await heard(await till.models.stream(till.payer(), ask())))[-1]
    assert last.usage is not None
    return last.usage


either = pytest.mark.parametrize("streams", [False, True], ids=["whole", "stream"])


async def test_a_call_is_paid_by_its_tokens_and_told_with_its_cost(till: Till) -> None:
    till.actor.script = says("hello world", Usage(12, 5, reasoning_tokens=2))
    answer = await till.models.complete(till.payer(), ask(model=None))
    cost = Cost(
        llm_usd=Decimal("0.022"),
        fee_multiplier=Decimal(1),
        total_usd=Decimal("0.022"),
        micros=22,
        kai_usd=Decimal(1_000),
    )
    assert answer.cost == cost
    assert (answer.said.text, answer.said.finish, answer.usage) == ("hello world ", "stop", Usage(12, 5, 2))
    assert (answer.model, answer.created_s, answer.estimated, answer.replayed) == ("kai-smart", 10**6, False, False)
    assert answer.id.startswith("chatcmpl-")
    assert await till.balance() == Balance(GRANTED - 22, 0)
    (row,) = till.rows()
    assert (row.request_id, row.account, row.key, row.endpoint) == (answer.request_id, "a", "key-1", ask().endpoint)
    assert (row.tokens_in, row.tokens_out, row.reasoning_tokens, row.cost, row.shortfall) == (12, 5, 2, 22, 0)
    assert (row.model, row.upstream_id, row.status, row.error, row.at_ns) == ("kai-smart", "up-1", "done", "", START_NS)
    assert Tariff.read(row.tariff).cost(row.tokens_in, row.tokens_out) == cost
    assert (till.reserved, till.corrected) == ([10 + 2_048], [17])
    assert till.counted('chat_calls_total{outcome="done"}') == 1
    assert till.counted('chat_tokens_total{way="in"}') == 12
    assert till.counted("chat_micros_total") == 22


async def test_a_stream_is_paid_as_a_whole_answer_is_and_its_last_delta_says_so(till: Till) -> None:
    counted = [Delta(text="a", usage=Usage(12, 1)), Delta(thought="b", usage=Usage(12, 2))]
    till.actor.script = [*counted, Delta(text="c", finish="length", usage=Usage(12, 5))]
    speaking = await till.models.stream(till.payer(), ask())
    assert await heard(speaking) == [
        Delta(text="a"),
        Delta(thought="b"),
        Delta(text="c"),
        Delta(finish="length", usage=Usage(12, 5)),
    ]
    assert await till.balance() == Balance(GRANTED - 22, 0)
    (row,) = till.rows()
    assert (row.request_id, row.cost, row.ttft_ms) == (speaking.request_id, 22, 0)
    speaking.close()
    assert [delta async for delta in speaking] == []


async def test_its_time_is_measured(till: Till) -> None:
    first, rest = asyncio.Event(), asyncio.Event()
    till.actor.script = [first, Delta(text="a"), rest, *says("b", Usage(1, 1))]
    streaming = asyncio.create_task(till.models.stream(till.payer(), ask()))
    await until(lambda: bool(till.actor.asked))
    await till.clock.advance(0.25)
    first.set()
    speaking = await streaming
    await till.clock.advance(1)
    rest.set()
    await heard(speaking)
    assert (till.rows()[0].ttft_ms, till.rows()[0].latency_ms) == (250, 1_250)


@pytest.mark.parametrize(
    ("asked", "granted", "bound", "held"),
    [
        # The prompt of 10, and two a token of the answer.
        (100, 0, 100, 210),
        (None, 0, 2_048, 4_106),
        (None, -GRANTED + 10 + 2 * 17 + 1, 17, 44),
        (None, -GRANTED + 10 + 2 * 16, 16, 42),
        (3, -GRANTED + 16, 3, 16),
    ],
)
async def test_what_may_be_said_is_held_and_sent_upstream(
    till: Till, asked: int | None, granted: int, bound: int, held: int
) -> None:
    wait = asyncio.Event()
    till.actor.script = [wait, *says("x", Usage(10, 1))]
    await till.grant("b", GRANTED + granted)
    calling = asyncio.create_task(till.models.complete(till.payer("b"), ask(output_tokens_max=asked)))
    await until(lambda: bool(till.actor.asked))
    assert till.actor.asked[0].output_tokens_max == bound
    assert (await till.balance("b")).held == held
    # What the money was not there for was given back.
    assert till.reserved[-1] == 10 + bound
    assert till.corrected == [0] * (len(till.reserved) - 1)
    assert till.counted("chat_in_flight") == 1
    wait.set()
    await calling
    await until(lambda: till.counted("chat_in_flight") == 0)


@pytest.mark.parametrize(
    ("asked", "micros", "says_so"),
    [
        (None, 10 + 2 * 15 + 1, "pays for 15 tokens of an answer, 16 are needed"),
        (None, 9, "pays for 0 tokens of an answer, 16 are needed"),
        (None, 0, "pays for 0 tokens of an answer, 16 are needed"),
        (100, 10 + 2 * 99, "pays for 99 tokens of an answer, 100 are needed"),
        (2, 10, "pays for 0 tokens of an answer, 2 are needed"),
    ],
)
@either
async def test_too_little_money_is_refused_before_anybody_is_asked(
    till: Till, asked: int | None, micros: int, says_so: str, streams: bool
) -> None:
    if micros:
        await till.grant("b", micros)
    call = till.models.stream if streams else till.models.complete
    with pytest.raises(InsufficientFunds, match=says_so):
        await call(till.payer("b"), ask(output_tokens_max=asked))
    assert till.actor.asked == []
    assert till.rows("b") == []
    assert till.counted('chat_calls_total{outcome="refused"}') == 1


@pytest.mark.parametrize(
    "error",
    [
        Unavailable("model", "no"),
        TimedOut("model", "no"),
        RateLimited("model", "no", 1.0),
        Invalid("no"),
        RuntimeError("a bug"),
    ],
    ids=lambda error: type(error).__name__,
)
@either
async def test_a_failure_is_free_and_told(till: Till, error: Exception, streams: bool) -> None:
    till.actor.script = [error]
    call = till.models.stream if streams else till.models.complete
    with pytest.raises(type(error)):
        await call(till.payer(), ask())
    await until(lambda: till.counted("chat_in_flight") == 0)
    assert await till.balance() == Balance(GRANTED, 0)
    (row,) = till.rows()
    code = error.code if isinstance(error, Refusal) else "internal"
    assert (row.status, row.error, row.cost, row.tokens_in, row.tokens_out) == ("failed", code, 0, 0, 0)
    assert till.corrected == [0]


async def test_what_breaks_off_in_the_middle_is_free(till: Till) -> None:
    till.actor.script = [Delta(text="half"), Unavailable("model", "cut")]
    speaking = await till.models.stream(till.payer(), ask())
    said = []
    with pytest.raises(Unavailable, match="cut"):
        async for delta in speaking:
            said.append(delta)
    assert said == [Delta(text="half")]
    assert await till.balance() == Balance(GRANTED, 0)
    assert (till.rows()[0].status, till.rows()[0].cost) == ("failed", 0)


@pytest.mark.parametrize("script", [[], [Delta(text="half")], [Delta(text="half", usage=Usage(1, 1))]])
async def test_a_stream_that_ends_without_a_finish_has_failed(till: Till, script: list[Delta]) -> None:
    till.actor.script = script
    with pytest.raises(Unavailable, match="in the middle"):
        await heard(await till.models.stream(till.payer(), ask()))
    assert await till.balance() == Balance(GRANTED, 0)


async def test_what_was_said_to_the_end_is_paid_though_its_count_was_lost(till: Till) -> None:
    till.actor.script = [*says("12345678"), Unavailable("model", "cut")]
    said = await heard(await till.models.stream(till.payer(), ask()))
    # Nine bytes with the space: three tokens.
    assert said[-1] == Delta(finish="stop", usage=Usage(10, 3))
    assert till.rows()[0].estimated


@pytest.mark.parametrize(
    ("usage", "paid", "estimated"),
    [
        (None, Usage(10, 2), True),
        (Usage(0, 0), Usage(0, 0), False),
        (Usage(7, 0), Usage(7, 0), False),
        (Usage(-1, 5), Usage(10, 2), True),
        (Usage(5, 10**30), Usage(10, 2), True),
        (Usage(5, 6, reasoning_tokens=-1), Usage(5, 6), False),
    ],
)
@either
async def test_what_is_not_counted_is_estimated_and_zero_is_zero(
    till: Till, usage: Usage | None, paid: Usage, estimated: bool, streams: bool
) -> None:
    till.actor.script = says("12345", usage)
    assert await told(till, streams=streams) == paid
    (row,) = till.rows()
    assert (row.tokens_in, row.tokens_out, row.estimated) == (paid.tokens_in, paid.tokens_out, estimated)
    assert till.counted("chat_estimated_total") == estimated
    assert await till.balance() == Balance(GRANTED - paid.tokens_in - 2 * paid.tokens_out, 0)


@either
async def test_tools_and_thoughts_count_though_nothing_is_shown(till: Till, streams: bool) -> None:
    call = {"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    till.actor.script = [Delta(thought="é" * 20), Delta(tool_calls=[call]), Delta(finish="tool_calls")]
    usage = await told(till, streams=streams)
    assert usage.tokens_out > 10 + 15


@either
async def test_more_than_was_held_is_taken_as_far_as_there_is_money(till: Till, streams: bool) -> None:
    till.actor.script = says("x", Usage(10, 10_000))
    await told(till, streams=streams)
    assert await till.balance() == Balance(0, 0)
    assert (till.rows()[0].cost, till.rows()[0].shortfall) == (GRANTED, 20_010 - GRANTED)


@either
async def test_what_costs_nothing_needs_no_money_and_has_its_row(till: Till, streams: bool) -> None:
    await till.close()
    await till.open(usd_per_1k_in=0, usd_per_1k_out=0)
    call = till.models.stream if streams else till.models.complete
    made = await call(till.payer("poor"), ask())
    if isinstance(made, Speaking):
        await heard(made)
    (row,) = till.rows("poor")
    assert (row.cost, row.tokens_in, row.tokens_out) == (0, 12, 5)
    assert await till.balance("poor") == Balance(0, 0)


async def test_nothing_is_sold_without_a_price(till: Till) -> None:
    await till.close()
    await till.open(kai_usd=None)
    with pytest.raises(NotConfigured, match="kai_usd"):
        await till.models.complete(till.payer(), ask())
    assert till.actor.asked == []


async def test_models_are_told_and_found_by_alias_or_upstream_name(till: Till) -> None:
    fast, smart = till.models.listed()
    assert (fast.id, fast.thinks, smart.id, smart.thinks) == ("kai-fast", False, "kai-smart", True)
    assert (fast.upstream_model, fast.provider, fast.status) == ("stage/large", "stage", "available")
    assert (fast.usd_per_1k_in, fast.usd_per_1k_out, fast.created_s) == (Decimal(1), Decimal(2), 10**6)
    raw = till.models.find("stage/large")
    assert (raw.id, raw.thinks, raw.upstream_model) == ("stage/large", True, "stage/large")
    for strange in ("", "gpt-9"):
        with pytest.raises(UnknownModel):
            till.models.find(strange)
        with pytest.raises(UnknownModel):
            await till.models.complete(till.payer(), ask(model=strange))
    answer = await till.models.complete(till.payer(), ask(model="stage/large"))
    assert (answer.model, till.rows()[0].model) == ("stage/large", "stage/large")


@pytest.mark.parametrize(
    ("model", "thinks", "thought"),
    [("kai-fast", None, False), ("kai-fast", True, True), ("kai-smart", None, True), ("kai-smart", False, False)],
)
async def test_a_name_says_whether_it_thinks_unless_the_caller_does(
    till: Till, model: str, thinks: bool | None, thought: bool
) -> None:
    await till.models.complete(till.payer(), ask(model=model, thinks=thinks, fields={"seed": 1}))
    (asked,) = till.actor.asked
    assert (asked.thinks, asked.fields, asked.messages) == (thought, {"seed": 1}, ask().messages)


async def test_more_calls_than_are_allowed_at_once_are_refused(till: Till) -> None:
    await till.close()
    await till.open(calls_max=2)
    wait = asyncio.Event()
    till.actor.script = [wait, *says("x", Usage(1, 1))]
    running = [asyncio.create_task(till.models.complete(till.payer(), ask())) for _ in range(2)]
    await until(lambda: len(till.actor.asked) == 2)
    with pytest.raises(LimitExceeded):
        async with asyncio.timeout(30):
            await till.models.complete(till.payer(), ask())
    wait.set()
    await asyncio.gather(*running)
    await until(lambda: till.counted("chat_in_flight") == 0)
    await till.models.complete(till.payer(), ask())


@pytest.mark.parametrize("error", [LimitExceeded("too many", 1.0), Forbidden("none")])
async def test_a_limit_of_tokens_refuses_before_anything_is_held(till: Till, error: Refusal) -> None:
    payer = door.Payer("a", None, lambda _tokens: _raise(error))
    assert await refusal_of(till.models.complete(payer, ask())) is error
    assert till.actor.asked == []
    assert till.rows() == []


def _raise(error: Exception) -> Callable[[int], None]:
    raise error


async def test_a_stream_begins_with_its_first_delta_or_after_a_while(till: Till) -> None:
    wait = asyncio.Event()
    till.actor.script = [wait, *says("x", Usage(1, 1))]
    streaming = asyncio.create_task(till.models.stream(till.payer(), ask()))
    await until(lambda: bool(till.actor.asked) and till.clock.sleepers == 2)
    await till.clock.advance(door.FIRST_S_MAX - 1)
    assert not streaming.done()
    await till.clock.advance(1)
    speaking = await streaming
    wait.set()
    assert len(await heard(speaking)) == 2


async def test_what_fails_after_that_is_told_in_the_stream(till: Till) -> None:
    wait = asyncio.Event()
    till.actor.script = [wait, Unavailable("model", "late")]
    streaming = asyncio.create_task(till.models.stream(till.payer(), ask()))
    await until(lambda: bool(till.actor.asked) and till.clock.sleepers == 2)
    await till.clock.advance(door.FIRST_S_MAX)
    speaking = await streaming
    wait.set()
    with pytest.raises(Unavailable, match="late"):
        await heard(speaking)


@either
async def test_a_call_that_takes_too_long_is_stopped_and_free(till: Till, streams: bool) -> None:
    till.actor.script = [asyncio.Event()]
    call = till.models.stream if streams else till.models.complete
    calling = asyncio.create_task(call(till.payer(), ask()))
    await until(lambda: bool(till.actor.asked) and till.clock.sleepers == 1 + streams)
    await till.clock.advance(door.WHOLE_S)
    made = await asyncio.gather(calling, return_exceptions=True)
    if isinstance(made[0], Speaking):
        with pytest.raises(TimedOut):
            await heard(made[0])
    else:
        assert isinstance(made[0], TimedOut)
    assert till.actor.closed == 1
    assert till.rows()[0].error == "timed_out"
    assert await till.balance() == Balance(GRANTED, 0)


async def test_who_reads_slowly_slows_the_upstream(till: Till) -> None:
    words = 3 * door.DELTAS_MAX
    till.actor.script = says("word " * words, Usage(10, words))
    speaking = await till.models.stream(till.payer(), ask())
    await until(lambda: till.actor.said > door.DELTAS_MAX)
    await till.clock.advance(1)
    assert till.actor.said == door.DELTAS_MAX + 1
    assert len(await heard(speaking)) == words + 1


async def test_who_takes_an_answer_and_then_reads_no_further_pays_for_it(till: Till) -> None:
    till.actor.script = says("word " * 3 * door.DELTAS_MAX, Usage(10, 1_000))
    speaking = await till.models.stream(till.payer(), ask())
    await until(lambda: till.actor.said > door.DELTAS_MAX)
    await till.clock.advance(door.WHOLE_S)
    await until(lambda: bool(till.rows()))
    (row,) = till.rows()
    assert (row.status, row.tokens_in, row.tokens_out, row.estimated) == ("done", 10, -(-65 * 5 // 4), True)
    with pytest.raises(TimedOut):
        await heard(speaking)


async def test_an_answer_without_end_is_stopped(till: Till) -> None:
    till.actor.script = [Delta(text="x" * (door.ANSWER_BYTES_MAX // 2))] * 3
    with pytest.raises(Unavailable, match="more than"):
        await heard(await till.models.stream(till.payer(), ask()))
    assert till.actor.closed == 1


# -- whoever leaves


async def left_after(till: Till, *script: Delta, key: str | None = None) -> Speaking:
    """A stream whose reader takes its first delta and leaves while the upstream waits to go on."""
    till.actor.script = [*script, *till.actor.script]
    speaking = await till.models.stream(till.payer(), ask(idempotency_key=key))
    await anext(speaking)
    await until(lambda: till.actor.said == len(script))
    speaking.close()
    return speaking


async def test_who_leaves_pays_for_the_prompt_and_what_was_said(till: Till) -> None:
    till.actor.script = [asyncio.Event()]
    await left_after(till, Delta(text="12345678"), Delta(thought="1234"))
    await until(lambda: bool(till.rows()))
    (row,) = till.rows()
    assert (row.status, row.tokens_in, row.tokens_out, row.estimated) == ("done", 10, 3, True)
    assert await till.balance() == Balance(GRANTED - 16, 0)
    assert till.actor.closed == 1
    assert till.counted('chat_calls_total{outcome="left"}') == 1


async def test_who_leaves_pays_what_the_upstream_counted_so_far(till: Till) -> None:
    till.actor.script = [asyncio.Event()]
    await left_after(till, Delta(text="x", usage=Usage(11, 1)), Delta(text="y", usage=Usage(11, 7)), Delta(text="z"))
    await until(lambda: bool(till.rows()))
    (row,) = till.rows()
    assert (row.tokens_in, row.tokens_out, row.estimated) == (11, 7, True)


@either
async def test_who_is_cancelled_before_anything_was_said_pays_for_the_prompt(till: Till, streams: bool) -> None:
    till.actor.script = [asyncio.Event()]
    call = till.models.stream if streams else till.models.complete
    calling = asyncio.create_task(call(till.payer(), ask()))
    await until(lambda: bool(till.actor.asked))
    calling.cancel()
    await until(lambda: bool(till.rows()))
    assert (till.rows()[0].tokens_in, till.rows()[0].tokens_out) == (10, 0)
    assert till.actor.closed == 1


async def test_who_leaves_before_anybody_was_asked_pays_nothing(till: Till) -> None:
    calling = asyncio.create_task(till.models.complete(till.payer(), ask()))
    await asyncio.sleep(0)
    calling.cancel()
    await until(lambda: till.counted("chat_in_flight") == 0)
    assert till.actor.asked == []
    assert await till.balance() == Balance(GRANTED, 0)


@pytest.mark.parametrize("key", [None, "k"])
async def test_a_call_is_read_on_where_that_is_set_or_where_its_key_says_somebody_comes_again(
    till: Till, key: str | None
) -> None:
    if key is None:
        await till.close()
        await till.open(on_disconnect="drain")
    rest = asyncio.Event()
    till.actor.script = [rest, *says("word " * 3 * door.DELTAS_MAX, Usage(10, 300))]
    await left_after(till, Delta(text="x"), key=key)
    await till.clock.advance(1)
    assert till.rows() == []
    rest.set()
    await until(lambda: bool(till.rows()))
    (row,) = till.rows()
    assert (row.tokens_in, row.tokens_out, row.estimated) == (10, 300, False)


async def test_nobody_is_read_on_for_ever(till: Till) -> None:
    await till.close()
    await till.open(on_disconnect="drain")
    till.actor.script = [asyncio.Event()]
    await left_after(till, Delta(text="x", usage=Usage(10, 4)))
    await till.clock.advance(door.DRAIN_S_MAX - 1)
    assert till.rows() == []
    await till.clock.advance(1)
    await until(lambda: bool(till.rows()))
    assert (till.rows()[0].tokens_out, till.rows()[0].estimated) == (4, True)
    assert till.actor.closed == 1


async def test_only_so_many_are_read_on_at_once(till: Till) -> None:
    await till.close()
    await till.open(on_disconnect="drain")
    await till.grant("a", 10**6)
    till.actor.script = [Delta(text="x"), asyncio.Event()]
    speaking = [await till.models.stream(till.payer(), ask()) for _ in range(door.DRAINS_MAX + 2)]
    for each in speaking:
        each.close()
    await until(lambda: len(till.rows()) == 2)
    assert till.actor.closed == 2
    await till.clock.advance(door.DRAIN_S_MAX)
    await until(lambda: len(till.rows()) == door.DRAINS_MAX + 2)


# -- when the books are out of reach, and at the end


@pytest.mark.parametrize("after", [False, True], ids=["not done", "done"])
@either
async def test_a_payment_that_is_not_taken_is_asked_for_again(till: Till, after: bool, streams: bool) -> None:
    wait = asyncio.Event()
    till.actor.script = [wait, *says("x", Usage(12, 5))]
    calling = asyncio.create_task(told(till, streams=streams))
    await until(lambda: bool(till.actor.asked))
    till.books.fails, till.books.after = 3, after
    wait.set()
    # Nobody waits for our database.
    assert await calling == Usage(12, 5)
    for wait_s in (0.5, 1.0, 2.0):
        assert till.counted("chat_in_flight") == 1
        await until(lambda: till.clock.sleepers == 1)
        await till.clock.advance(wait_s)
    await until(lambda: till.counted("chat_in_flight") == 0)
    assert till.books.fails == 0
    assert await till.balance() == Balance(GRANTED - 22, 0)
    assert len(till.rows()) == 1


async def test_a_payment_is_given_up_when_its_hold_is_gone(till: Till) -> None:
    wait = asyncio.Event()
    till.actor.script = [wait, *says("x", Usage(12, 5))]
    calling = asyncio.create_task(told(till, streams=False))
    await until(lambda: bool(till.actor.asked))
    till.books.fails = 10**6
    wait.set()
    await calling
    await until(lambda: till.clock.sleepers == 1)
    till.books.fails = 0
    assert await till.ledger.sweep(START_NS + round(DEADLINE_S * 10**9)) == 1
    await till.clock.advance(1)
    await until(lambda: till.counted("chat_in_flight") == 0)
    assert till.counted("chat_unbooked_total") == 1
    assert await till.balance() == Balance(GRANTED, 0)


async def test_a_payment_is_not_asked_for_after_its_deadline(till: Till) -> None:
    wait = asyncio.Event()
    till.actor.script = [wait, *says("x", Usage(12, 5))]
    calling = asyncio.create_task(told(till, streams=False))
    await until(lambda: bool(till.actor.asked))
    till.books.fails = 10**6
    wait.set()
    await calling
    while till.counted("chat_in_flight"):
        await until(lambda: till.clock.sleepers == 1 or till.counted("chat_in_flight") == 0)
        await till.clock.advance(door.RETRY_S_MAX)
    assert DEADLINE_S <= (till.clock.now_ns() - START_NS) / 10**9 <= DEADLINE_S + 2 * door.RETRY_S_MAX
    assert till.counted("chat_unbooked_total") == 1
    till.books.fails = 0
    assert await till.ledger.sweep(till.clock.now_ns()) == 1


@pytest.mark.parametrize("after", [False, True], ids=["not done", "done"])
async def test_a_hold_that_is_not_known_to_be_made_is_released(till: Till, after: bool) -> None:
    till.books.fails, till.books.after = 1, after
    with pytest.raises(Unavailable):
        await till.models.complete(till.payer(), ask())
    await until(lambda: till.counted("chat_in_flight") == 0)
    assert till.actor.asked == []
    assert await till.balance() == Balance(GRANTED, 0)


async def test_at_the_end_calls_are_waited_for_and_then_stopped_free_of_charge(till: Till) -> None:
    short, wait = asyncio.Event(), asyncio.Event()
    till.actor.script = [short, *says("x", Usage(12, 5))]
    soon = asyncio.create_task(till.models.complete(till.payer(), ask()))
    await until(lambda: len(till.actor.asked) == 1)
    till.actor.script = [Delta(text="x"), wait]
    speaking = await till.models.stream(till.payer(), ask())
    closing = asyncio.create_task(till.models.close(wait_s=0.2))
    await asyncio.sleep(0)
    with pytest.raises(Unavailable, match="stopping"):
        await till.models.complete(till.payer(), ask())
    short.set()
    assert isinstance(await soon, Completed)
    await closing
    with pytest.raises(Unavailable, match="stopping"):
        await heard(speaking)
    assert sorted((row.status, row.cost) for row in till.rows()) == [("done", 22), ("failed", 0)]
    assert till.actor.closed == 2
    assert till.counted("chat_in_flight") == 0
