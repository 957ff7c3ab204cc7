"""The openai package, our server, real books and a real server of language models, which speaks noise."""

import asyncio
import random
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import openai
import pytest

from openoutcry.clock import SystemClock
from openoutcry.config import ModelsConfig, UpstreamConfig
from openoutcry.ledger.ledger import Ledger
from openoutcry.ledger.postings import ISSUANCE, Posting
from openoutcry.ledger.records import UsageRow
from openoutcry.llm.models import Models
from openoutcry.llm.routing import Line, Routed
from openoutcry.money import KAI
from openoutcry.stores.ledger import SqlLedger
from openoutcry.stores.sql import sqlite_url
from openoutcry.stores.usage import SqlUsage
from openoutcry.telemetry import Telemetry
from openoutcry.transport import HttpClient
from openoutcry.upstreams.openai import OpenAi
from tests.api.agentk_models import ACCOUNT, Answered
from tests.llm.llamacpp import LlamaCpp

GRANTED = 1_000_000
# Noise that is the same each time, and does not end by itself before its bound.
STEADY: dict[str, Any] = {"seed": 1, "temperature": 0}
HI: list[Any] = [{"role": "user", "content": "say hi"}]


class Whole(Answered):
    """The server over everything, and the books behind it."""

    def __init__(self, models: Models, ledger: Ledger, usage: SqlUsage) -> None:
        super().__init__(models)
        self.ledger = ledger
        self.usage = usage

    async def balance(self) -> int:
        balance = await self.ledger.balance(ACCOUNT, KAI.name)
        assert balance.held == 0
        return balance.total

    def rows(self) -> list[UsageRow]:
        return list(self.usage.rows(ACCOUNT, 500, status=None))


@pytest.fixture
async def whole(llamacpp: LlamaCpp, tmp_path: Path) -> AsyncIterator[Whole]:
    """An account with one KAI; a token costs one micro in and two out. In the end the books say what the rows say."""
    clock, telemetry, url = SystemClock(), Telemetry(), sqlite_url(tmp_path / "ledger.db")
    books, usage, http = SqlLedger(url), SqlUsage(url), HttpClient()
    ledger = Ledger(books, clock, telemetry)
    named = UpstreamConfig(base_url=llamacpp.url, model=llamacpp.model)
    config = ModelsConfig(
        upstreams={"noise": named},
        usd_per_1k_in=Decimal("0.001"),
        usd_per_1k_out=Decimal("0.002"),
        fee_multiplier=Decimal(1),
        kai_usd=Decimal(1),
    )
    route = Routed([Line("noise", named, OpenAi(), http, clock, telemetry)], clock, random.Random(1))
    models = Models(dict.fromkeys(config.aliases, route), ledger, usage, clock, telemetry, config)
    made = Whole(models, ledger, usage)
    try:
        await ledger.transfer("grant", [Posting(ISSUANCE, KAI.name, -GRANTED), Posting(ACCOUNT, KAI.name, GRANTED)])
        await made.start()
        yield made
        await made.stop()
        await models.close()
        assert await made.balance() == GRANTED - sum(row.cost for row in made.rows())
        assert books.check() == []
    finally:
        await models.close()
        await http.close()
        await ledger.close()
        usage.close()
        books.close()


async def test_a_whole_answer_costs_what_its_tokens_do(whole: Whole) -> None:
    raw = await whole.openai().chat.completions.with_raw_response.create(
        model="kai-fast", messages=HI, max_tokens=12, **STEADY
    )
    told = raw.parse()
    assert told.usage is not None
    assert told.usage.prompt_tokens > 0
    assert told.usage.completion_tokens == 12
    assert told.choices[0].finish_reason == "length"
    cost = told.usage.prompt_tokens + 2 * told.usage.completion_tokens
    assert raw.headers["x-kai-cost-micros"] == str(cost)
    assert await whole.balance() == GRANTED - cost
    (row,) = whole.rows()
    assert (row.endpoint, row.model, row.cost) == ("/v1/chat/completions", "kai-fast", cost)


@pytest.mark.parametrize("apart", [False, True])
async def test_a_stream_costs_what_it_says(whole: Whole, apart: bool) -> None:
    stream = await whole.openai().chat.completions.create(
        model="kai-smart", messages=HI, max_tokens=16, stream=True, **STEADY, stream_options={"include_usage": apart}
    )
    chunks = [chunk async for chunk in stream]
    assert chunks[0].choices[0].delta.role == "assistant"
    finishes = [choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason]
    assert finishes == ["length"]
    assert len(chunks[-1].choices) == (0 if apart else 1)
    used = chunks[-1].usage
    assert used is not None
    assert used.completion_tokens == 16
    assert await whole.balance() == GRANTED - used.prompt_tokens - 2 * used.completion_tokens


async def test_the_same_question_costs_the_same_streamed_or_not(whole: Whole) -> None:
    client = whole.openai()
    for stream in (False, True):
        answer: Any = await client.chat.completions.create(
            model="kai-fast", messages=HI, max_tokens=8, stream=stream, **STEADY
        )
        if stream:
            async for _ in answer:
                pass
    streamed, plain = whole.rows()
    assert (streamed.tokens_in, streamed.tokens_out, streamed.cost) == (
        plain.tokens_in,
        plain.tokens_out,
        plain.cost,
    )


@pytest.mark.parametrize("stream", [False, True])
async def test_the_same_key_is_paid_once(whole: Whole, stream: bool) -> None:
    body = {"messages": HI, "max_tokens": 8, "stream": stream}
    first = await whole.post(body, Idempotency_Key="k-1")
    paid = await whole.balance()
    again = await whole.post(body, Idempotency_Key="k-1")
    assert await whole.balance() == paid
    assert len(whole.rows()) == 1
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    if stream:
        assert again.text.startswith("data: ")
        assert again.text.endswith("data: [DONE]\n\n")
    else:
        assert again.json() == first.json()
    other = await whole.post({**body, "max_tokens": 9}, Idempotency_Key="k-1")
    assert other.status_code == 422


async def test_who_leaves_pays_for_what_was_said(whole: Whole, until: Any) -> None:
    client = whole.openai()
    stream = await client.chat.completions.create(
        model="kai-fast", messages=HI, max_tokens=3_900, stream=True, **STEADY
    )
    chunks = aiter(stream)
    for _ in range(4):
        await anext(chunks)
    await stream.close()
    async with asyncio.timeout(20):
        await until(whole.rows)
    (row,) = whole.rows()
    assert row.estimated
    assert 0 < row.tokens_out < 3_900
    assert row.cost > 0
    assert await whole.balance() == GRANTED - row.cost


async def test_what_the_upstream_cannot_take_is_the_callers_fault_and_free(whole: Whole) -> None:
    with pytest.raises(openai.BadRequestError) as wrong:
        await whole.openai().chat.completions.create(
            model="kai-fast", messages=[{"role": "user", "content": "a" * 20_000}], max_tokens=8
        )
    assert (wrong.value.code, wrong.value.param) == ("context_length_exceeded", "messages")
    assert await whole.balance() == GRANTED


async def test_one_question_shows_its_cost(whole: Whole) -> None:
    told = (await whole.post({"message": "hi", "max_tokens": 5}, "/v1/ai/chat")).json()["data"]
    assert 1 <= told["tokens_out"] <= 5
    micros = told["tokens_in"] + 2 * told["tokens_out"]
    assert told["cost"]["total_micros"] == micros == GRANTED - await whole.balance()
    assert (told["cost"]["fee_multiplier"], told["cost"]["kai_price_usd"]) == (1, 1)
    assert round(told["cost"]["total_usd"] * 1_000_000) == micros


async def test_models_are_those_of_the_settings(whole: Whole, llamacpp: LlamaCpp) -> None:
    client = whole.openai()
    listed = [each async for each in client.models.list()]
    assert [each.id for each in listed] == ["kai-fast", "kai-smart"]
    assert (await client.models.retrieve("kai-smart")).to_dict()["upstream_model"] == llamacpp.model
    with pytest.raises(openai.NotFoundError):
        await client.chat.completions.create(model="gpt-9", messages=HI)
