"""Calls that are paid for, through the real client, to upstreams on this machine: what they count is what is billed."""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from decimal import Decimal

import pytest

from openoutcry.chat import Conversation
from openoutcry.config import ModelsConfig, UpstreamConfig
from openoutcry.errors import ContextTooLong, Unavailable
from openoutcry.instrument import Instrument
from openoutcry.ledger.postings import Balance
from openoutcry.llm.builtin import Builtin
from openoutcry.llm.material import Material
from openoutcry.llm.models import Models
from openoutcry.llm.routing import Line, Route, Routed, estimated
from openoutcry.transport import HttpClient
from openoutcry.upstreams.openai import OpenAi
from tests.llm.calls import GRANTED, PRICES, Till, ask, heard, until
from tests.llm.fake_upstream import Behaviour, FakeUpstream, cut_after, silent_after, status, streamed, whole
from tests.llm.llamacpp import CONTEXT_TOKENS, LlamaCpp
from tests.llm.markets import RISING, a_material, an_instrument


@asynccontextmanager
async def models(till: Till, route: Route) -> AsyncIterator[Models]:
    settings = ModelsConfig(**PRICES)
    made = Models(dict.fromkeys(settings.aliases, route), till.ledger, till.usage, till.clock, till.telemetry, settings)
    yield made
    await made.close()


@asynccontextmanager
async def routed(till: Till, configs: Sequence[UpstreamConfig]) -> AsyncIterator[Models]:
    async with AsyncExitStack() as stack:
        lines = []
        for at, config in enumerate(configs):
            http = HttpClient()
            stack.push_async_callback(http.close)
            lines.append(Line(f"up{at}", config, OpenAi(), http, till.clock, till.telemetry))
        yield await stack.enter_async_context(models(till, Routed(lines, till.clock, random.Random(1))))


@asynccontextmanager
async def upstreams(till: Till, *scripts: Sequence[Behaviour]) -> AsyncIterator[tuple[Models, Sequence[FakeUpstream]]]:
    async with AsyncExitStack() as stack:
        fakes = [await stack.enter_async_context(FakeUpstream(script)) for script in scripts]
        configs = [UpstreamConfig(base_url=fake.url, model="m") for fake in fakes]
        yield await stack.enter_async_context(routed(till, configs)), fakes


async def test_a_real_model_is_billed_what_it_counts(till: Till, llamacpp: LlamaCpp) -> None:
    asked = ask(output_tokens_max=40, fields={"seed": 7, "temperature": 0})
    async with routed(till, [UpstreamConfig(base_url=llamacpp.url, model=llamacpp.model)]) as made:
        answer = await made.complete(till.payer(), asked)
        deltas = await heard(await made.stream(till.payer(), asked))
        with pytest.raises(ContextTooLong):
            await made.complete(till.payer(), ask(messages=({"role": "user", "content": "x" * 2 * CONTEXT_TOKENS},)))
    assert deltas[-1].usage is not None
    assert (deltas[-1].usage.tokens_in, deltas[-1].usage.tokens_out) == (
        answer.usage.tokens_in,
        answer.usage.tokens_out,
    )
    assert "".join(delta.text for delta in deltas) == answer.said.text
    refused, *rows = till.rows()
    assert [(row.cost, row.estimated, row.status) for row in rows] == [(answer.cost.micros, False, "done")] * 2
    assert (refused.cost, refused.status) == (0, "failed")
    assert answer.cost.micros == answer.usage.tokens_in + 2 * answer.usage.tokens_out
    # What was reserved for the prompt is what it came to: the upstream counted it before.
    assert till.reserved[0] == answer.usage.tokens_in + 40
    assert await till.balance() == Balance(GRANTED - 2 * answer.cost.micros, 0)


async def test_an_answer_of_the_second_upstream_is_one_bill(till: Till) -> None:
    async with upstreams(till, [status(500)], [whole(), streamed("Up.")]) as (made, fakes):
        answer = await made.complete(till.payer(), ask())
        await heard(await made.stream(till.payer(), ask()))
    assert answer.cost.micros == 9 + 2 * 2
    assert [len(fake.asked) for fake in fakes] == [1, 2]
    assert [(row.tokens_in, row.tokens_out, row.cost) for row in till.rows()] == [(9, 2, 13)] * 2


async def test_what_was_cut_is_free(till: Till) -> None:
    async with upstreams(till, [cut_after("Up")]) as (made, _):
        speaking = await made.stream(till.payer(), ask())
        with pytest.raises(Unavailable, match="broke off"):
            await heard(speaking)
    assert await till.balance() == Balance(GRANTED, 0)
    assert [(row.cost, row.status) for row in till.rows()] == [(0, "failed")]


async def test_a_caller_who_leaves_ends_the_work_and_pays_what_was_said(till: Till) -> None:
    async with upstreams(till, [silent_after("Up and up and up")]) as (made, (fake,)):
        speaking = await made.stream(till.payer(), ask())
        assert (await anext(speaking)).text == "Up and up and up"
        speaking.close()
        async with asyncio.timeout(20):
            await fake.left.wait()
        await until(lambda: bool(till.rows()))
    (row,) = till.rows()
    conversation = fake.asked[0].json["messages"]
    assert (row.estimated, row.status, row.cost > 0) == (True, "done", True)
    assert row.tokens_in == estimated_of(conversation)
    assert await till.balance() == Balance(GRANTED - row.cost, 0)


async def test_the_narrator_is_billed_the_same_streamed_or_not(till: Till) -> None:
    async def find(coin: str) -> Instrument:
        return an_instrument(coin=coin)

    async def gather(instrument: Instrument, interval_s: int, candles: int) -> Material:
        return a_material(RISING, instrument=instrument, interval_s=interval_s)

    asked = ask(model="kai-smart", messages=({"role": "user", "content": "BTC 4h"},))
    async with models(till, Builtin(find, gather)) as made:
        answer = await made.complete(till.payer(), asked)
        deltas = await heard(await made.stream(till.payer(), asked))
    assert "".join(delta.text for delta in deltas) == answer.said.text
    assert "".join(delta.thought for delta in deltas) == answer.said.thought
    assert deltas[-1].usage == answer.usage
    assert [(row.cost, row.estimated) for row in till.rows()] == [(answer.cost.micros, False)] * 2
    assert answer.cost.llm_usd == Decimal(answer.usage.tokens_in + 2 * answer.usage.tokens_out) / 1_000


def estimated_of(messages: Sequence[dict[str, str]]) -> int:
    return estimated(Conversation(messages=tuple(messages), output_tokens_max=1, thinks=False))
