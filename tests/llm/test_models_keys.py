"""The same idempotency key is answered twice and paid once, also by the next life of the server."""

import asyncio
from typing import Any

import pytest

from openoutcry.chat import Delta, Usage
from openoutcry.clock import NS
from openoutcry.errors import Conflict, InsufficientFunds, Invalid, LimitExceeded, OtherContent, Unavailable
from openoutcry.ledger.postings import Balance
from openoutcry.llm import models as door
from openoutcry.llm.models import Ask
from tests.llm.calls import GRANTED, Till, ask, heard, says, until

DAY_S = 86_400.0


def again(key: str = "k", print_: bytes = b"one", **other: Any) -> Ask:
    return ask(idempotency_key=key, fingerprint=print_, **other)


async def test_an_answer_is_given_again_and_paid_once(till: Till) -> None:
    till.actor.script = [Delta(thought="hm"), *says("hello world", Usage(12, 5, reasoning_tokens=1))]
    first = await till.models.complete(till.payer(), again())
    second = await till.models.complete(till.payer(), again())
    assert not first.replayed
    assert second.replayed
    assert second.said.thought == "hm"
    for name in ("request_id", "id", "created_s", "model", "said", "usage", "cost", "estimated", "latency_ms"):
        assert getattr(first, name) == getattr(second, name)
    assert len(till.actor.asked) == len(till.rows()) == len(till.reserved) == 1
    assert await till.balance() == Balance(GRANTED - 22, 0)
    assert till.counted("chat_replayed_total") == 1


async def test_the_next_life_of_the_server_gives_it_again(till: Till) -> None:
    first = await till.models.complete(till.payer(), again())
    await till.close()
    await till.open()
    assert (await till.models.complete(till.payer(), again())).request_id == first.request_id
    assert len(till.actor.asked) == 1


async def test_a_stream_is_given_again_as_one(till: Till) -> None:
    pieces = [
        {"index": 0, "id": "c0", "type": "function", "function": {"name": "f", "arguments": ""}},
        {"index": 0, "function": {"arguments": '{"a":'}},
        {"index": 0, "function": {"name": None, "arguments": "1}"}},
        {"index": 1, "id": "c1", "type": "function", "function": {"name": "g", "arguments": "{}"}},
    ]
    till.actor.script = [
        Delta(thought="h"),
        Delta(thought="m"),
        Delta(text="hello ", logprobs={"content": [{"token": "hello ", "logprob": -0.5}]}),
        # Half a pair of UTF-16, and what a database would not take in a text.
        Delta(text="\ud800\x00", logprobs={"content": [{"token": "?", "logprob": float("-inf")}], "refusal": None}),
        *(Delta(tool_calls=[piece]) for piece in pieces),
        Delta(finish="tool_calls"),
        Delta(usage=Usage(12, 5)),
    ]
    first = await till.models.stream(till.payer(), again())
    await heard(first)
    second = await till.models.stream(till.payer(), again())
    assert (second.request_id, second.id, second.created_s) == (first.request_id, first.id, first.created_s)
    assert (first.replayed, second.replayed) == (False, True)
    logprobs = {"content": [{"token": "hello ", "logprob": -0.5}, {"token": "?", "logprob": float("-inf")}]}
    calls = [
        {"index": 0, "id": "c0", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}},
        {"index": 1, "id": "c1", "type": "function", "function": {"name": "g", "arguments": "{}"}},
    ]
    assert await heard(second) == [
        Delta(thought="hm"),
        Delta(text="hello \ud800\x00", logprobs=logprobs | {"refusal": None}),
        Delta(tool_calls=calls),
        Delta(finish="tool_calls", usage=Usage(12, 5)),
    ]
    assert await till.balance() == Balance(GRANTED - 22, 0)
    second.close()


async def test_who_leaves_what_is_given_again_pays_nothing(till: Till) -> None:
    await till.models.complete(till.payer(), again())
    speaking = await till.models.stream(till.payer(), again())
    speaking.close()
    assert [delta async for delta in speaking] == []
    assert len(till.rows()) == 1


async def test_while_it_runs_the_same_is_waited_for_and_another_question_refused(till: Till) -> None:
    wait = asyncio.Event()
    till.actor.script = [wait, *says("x", Usage(12, 5))]
    calls = [asyncio.create_task(till.models.complete(till.payer(), again())) for _ in range(5)]
    await until(lambda: bool(till.actor.asked))
    with pytest.raises(OtherContent):
        async with asyncio.timeout(30):
            await till.models.complete(till.payer(), again(print_=b"two"))
    wait.set()
    answers = await asyncio.gather(*calls)
    assert {each.request_id for each in answers} == {answers[0].request_id}
    assert sorted(each.replayed for each in answers) == [False, True, True, True, True]
    assert len(till.actor.asked) == len(till.rows()) == 1
    with pytest.raises(OtherContent):
        await till.models.complete(till.payer(), again(print_=b"two"))


async def test_nobody_waits_for_ever_for_the_same(till: Till) -> None:
    wait = asyncio.Event()
    till.actor.script = [wait, *says("x", Usage(12, 5))]
    first = asyncio.create_task(till.models.complete(till.payer(), again()))
    await until(lambda: bool(till.actor.asked))
    second = asyncio.create_task(till.models.complete(till.payer(), again()))
    await until(lambda: till.clock.sleepers == 2)
    await till.clock.advance(door.RUNNING_S_MAX)
    with pytest.raises(Conflict) as refused:
        await second
    assert not isinstance(refused.value, OtherContent)
    wait.set()
    await first


async def test_a_key_is_free_again_after_whatever_gave_no_answer(till: Till) -> None:
    till.actor.script = [Unavailable("model", "no")]
    with pytest.raises(Unavailable):
        await till.models.complete(till.payer(), again())
    await until(lambda: till.counted("chat_in_flight") == 0)
    till.tokens_left = 0
    with pytest.raises(LimitExceeded):
        await till.models.complete(till.payer(), again(print_=b"two"))
    till.tokens_left = 10**9
    await until(lambda: till.counted("chat_in_flight") == 0)
    with pytest.raises(InsufficientFunds):
        await till.models.complete(till.payer(), again(print_=b"three", output_tokens_max=8_192))
    till.actor.script = [Delta(text="x"), asyncio.Event()]
    speaking = await till.models.stream(till.payer(), again(print_=b"four"))
    speaking.close()
    # It is read on for whoever comes again, and no longer than that.
    await until(lambda: till.clock.sleepers == 2)
    await till.clock.advance(door.DRAIN_S_MAX)
    await until(lambda: till.counted("chat_in_flight") == 0)
    till.actor.script = says("x", Usage(12, 5))
    assert not (await till.models.complete(till.payer(), again(print_=b"five"))).replayed
    assert [row.status for row in till.rows()] == ["done", "done", "failed"]


async def test_who_left_comes_again_for_the_answer(till: Till) -> None:
    wait = asyncio.Event()
    till.actor.script = [wait, *says("x", Usage(12, 5))]
    calling = asyncio.create_task(till.models.complete(till.payer(), again()))
    await until(lambda: bool(till.actor.asked))
    calling.cancel()
    second = asyncio.create_task(till.models.complete(till.payer(), again()))
    wait.set()
    assert (await second).replayed
    assert (len(till.rows()), len(till.actor.asked)) == (1, 1)


async def test_keys_of_accounts_are_their_own(till: Till) -> None:
    await till.grant("b", GRANTED)
    first = await till.models.complete(till.payer("a"), again())
    second = await till.models.complete(till.payer("b"), again(print_=b"two"))
    assert first.request_id != second.request_id
    assert not second.replayed


async def test_an_answer_is_kept_a_day_and_its_key_is_then_free(till: Till) -> None:
    await till.models.complete(till.payer(), again())
    await till.clock.advance(DAY_S)
    assert (await till.models.complete(till.payer(), again())).replayed
    await till.clock.advance(1)
    # Nobody has pruned it yet.
    assert not (await till.models.complete(till.payer(), again(print_=b"two"))).replayed
    assert (await till.models.complete(till.payer(), again(print_=b"two"))).replayed
    assert len(till.rows()) == 2


async def test_answers_are_pruned_by_age_and_number(till: Till) -> None:
    await till.close()
    await till.open(answers_max=2)
    for number in range(4):
        await till.models.complete(till.payer(), again(f"k{number}"))
        await till.clock.advance(1)
    assert await till.models.prune(till.clock.now_ns()) == 2
    kept = [till.usage.get("a", f"k{number}") is not None for number in range(4)]
    assert kept == [False, False, True, True]
    assert await till.models.prune(till.clock.now_ns() + round((DAY_S - 1) * NS)) == 1
    running = asyncio.create_task(till.models.run())
    await until(lambda: till.clock.sleepers == 1)
    await till.clock.advance(DAY_S)
    await until(lambda: till.clock.sleepers == 1)
    await till.clock.advance(door.PRUNE_S)
    await until(lambda: till.usage.get("a", "k3") is None)
    running.cancel()


@pytest.mark.parametrize("key", ["", "x" * (door.KEY_CHARACTERS_MAX + 1), "é", "a\x00b", "a\nb"])
async def test_a_key_that_cannot_be_kept_is_refused(till: Till, key: str) -> None:
    with pytest.raises(Invalid):
        await till.models.complete(till.payer(), again(key))
    assert till.actor.asked == []


async def test_an_answer_that_was_not_paid_is_not_kept(till: Till) -> None:
    wait = asyncio.Event()
    till.actor.script = [wait, *says("x", Usage(12, 5))]
    calling = asyncio.create_task(till.models.complete(till.payer(), again()))
    await until(lambda: bool(till.actor.asked))
    till.books.fails = 1
    wait.set()
    await calling
    assert till.usage.get("a", "k") is None
    await until(lambda: till.clock.sleepers == 1)
    await till.clock.advance(1)
    await until(lambda: till.counted("chat_in_flight") == 0)
    assert till.usage.get("a", "k") is not None
    assert (await till.models.complete(till.payer(), again())).replayed


async def test_a_call_without_a_key_keeps_nothing(till: Till) -> None:
    await till.models.complete(till.payer(), ask())
    await till.models.complete(till.payer(), ask())
    assert len(till.rows()) == 2
    assert till.usage.prune(2**62, 0, 9) == 0


async def test_an_answer_that_cannot_be_kept_is_a_failure_that_leaves_nothing_held(till: Till) -> None:
    call = {"index": 0, "id": object(), "function": {"name": "f", "arguments": "{}"}}
    till.actor.script = [Delta(tool_calls=[call]), *says("x", Usage(12, 5))]
    with pytest.raises(TypeError):
        await till.models.complete(till.payer(), again())
    await until(lambda: till.counted("chat_in_flight") == 0)
    assert await till.balance() == Balance(GRANTED, 0)
    assert till.corrected == [0]
    till.actor.script = says("x", Usage(12, 5))
    assert not (await till.models.complete(till.payer(), again(print_=b"two"))).replayed
