"""The built-in narrator, asked as a language model is."""

import asyncio
import math
import re
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openoutcry.chat import Conversation, Delta, Said, Usage
from openoutcry.errors import BadInterval, NoData, Unavailable
from openoutcry.instrument import Instrument
from openoutcry.llm.builtin import HELP, LOOKUPS_MAX, NO_JSON, NO_PICTURES, NO_TOOLS, Builtin
from openoutcry.llm.material import Material
from openoutcry.llm.narrator import FIRST_LINE
from tests.llm.markets import RISING, a_material, an_instrument

LISTED = ("BTC", "ETH", "SOL", "DOGE", "LINK", "OP", "HI", "BCH", "XYZ")


class Market:
    """A listing, and material of whatever it is asked for; it remembers what that was."""

    def __init__(self, refusal: Exception | None = None, closes: Any = RISING) -> None:
        self.looked_up: list[str] = []
        self.gathered: list[tuple[str, int]] = []
        self._refusal, self._closes = refusal, closes
        self.builtin = Builtin(self.find, self.gather)

    async def find(self, coin: str) -> Instrument | None:
        self.looked_up.append(coin)
        return an_instrument(f"{coin}USDT", coin=coin) if coin in LISTED else None

    async def gather(self, instrument: Instrument, interval_s: int, candles: int) -> Material:
        self.gathered.append((instrument.coin, interval_s))
        if self._refusal is not None:
            raise self._refusal
        return a_material(self._closes, instrument=instrument, interval_s=interval_s)


def asking(question: Any, *, tokens: int = 4_000, thinks: bool = False, **fields: Any) -> Conversation:
    messages = (
        {"role": "system", "content": "DOGE on 1m"},
        {"role": "user", "content": "And LINK?"},
        {"role": "assistant", "content": "No."},
        {"role": "user", "content": question},
    )
    return Conversation(messages=messages, output_tokens_max=tokens, thinks=thinks, fields=fields)


async def told(question: Any, **how: Any) -> Said:
    return await Market().builtin.complete(asking(question, **how))


@pytest.mark.parametrize(
    ("question", "coin", "interval_s"),
    [
        ("BTC", "BTC", 3_600),
        ("btc 4h", "BTC", 14_400),
        ("What about ETH/USDT on 15m?", "ETH", 900),
        ("ETH-USD, 1d please", "ETH", 86_400),
        ("ETHUSDT 5 minutes", "ETH", 300),
        ("How is Solana doing, daily?", "SOL", 86_400),
        ("how is solana on the 4 hour chart", "SOL", 14_400),
        ("1H BTC", "BTC", 3_600),
        ("Weekly bitcoin", "BTC", 604_800),
        ("bitcoin cash 1m", "BCH", 60),
        ("$xyz 12h", "XYZ", 43_200),
        ("XYZ?", "XYZ", 3_600),
        ("xyz/usdt", "XYZ", 3_600),
        ("First ETH, then BTC", "ETH", 3_600),
        ("Is the link in my op-ed about doge good?", "DOGE", 3_600),
        ("LINK 4h", "LINK", 14_400),
        ("chainlink 4h", "LINK", 14_400),
        ("RSI and MACD of DOGE in USD", "DOGE", 3_600),
        ("What does the EMA20 of BTC say on 4h and 1d?", "BTC", 14_400),
        ([{"type": "text", "text": "BTC"}, {"type": "text", "text": "4h"}], "BTC", 14_400),
    ],
)  # fmt: skip
async def test_the_last_question_names_coin_and_interval(question: Any, coin: str, interval_s: int) -> None:
    market = Market()
    said = await market.builtin.complete(asking(question))
    assert market.gathered == [(coin, interval_s)]
    assert said.text is not None
    assert said.text.startswith(f"{FIRST_LINE}\n\n")
    assert f"**{coin}**" in said.text
    assert "## Trend" in said.text
    assert said.finish == "stop"
    assert said.thought == ""


@pytest.mark.parametrize("question", ["hi", "Write me a poem", "", "What is your RSI?", "Is the link near?", None, 7])
async def test_without_a_coin_it_says_what_it_is_and_what_to_ask(question: Any) -> None:
    market = Market()
    said = await market.builtin.complete(asking(question))
    assert said.text == f"{FIRST_LINE}\n\n{HELP}\n"
    assert (said.finish, market.looked_up, market.gathered) == ("stop", [], [])


async def test_one_that_is_not_listed_is_named() -> None:
    for question in ("ABC/USDT 4h", "$ABC", "what of monero"):
        said = await told(question)
        assert said.text is not None
        assert re.search(r"`(ABC|XMR)` is not listed here\.", said.text)
        assert HELP in said.text


async def test_words_are_looked_up_only_so_often() -> None:
    market = Market()
    await market.builtin.complete(asking(" ".join(f"AB{at}" for at in range(100))))
    assert len(market.looked_up) == LOOKUPS_MAX


async def test_a_length_that_there_is_not_is_said() -> None:
    market = Market()
    said = await market.builtin.complete(asking("BTC on 7m"))
    assert market.gathered == [("BTC", 3_600)]
    assert "There are no candles of that length: these are of 1h." in (said.text or "")


async def test_what_it_cannot_do_is_said() -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    said = await told(
        [{"type": "text", "text": "BTC"}, picture],
        tools=[{"type": "function", "function": {"name": "f"}}],
        response_format={"type": "json_object"},
    )
    lines = (said.text or "").split("\n\n")
    assert lines[:4] == [FIRST_LINE, NO_TOOLS, NO_JSON, NO_PICTURES]
    plain = await told("BTC", tools=[], response_format={"type": "text"})
    assert not {NO_TOOLS, NO_JSON, NO_PICTURES} & set((plain.text or "").split("\n\n"))


@pytest.mark.parametrize("refusal", [NoData("nothing there"), BadInterval("not that")])
async def test_what_the_market_does_not_have_is_said(refusal: Exception) -> None:
    said = await Market(refusal).builtin.complete(asking("BTC"))
    assert f"I can tell nothing of it: {refusal}." in (said.text or "")
    said = await Market(closes=[]).builtin.complete(asking("BTC"))
    assert "there is no closed candle of BTC at 1h" in (said.text or "")


async def test_a_market_that_does_not_answer_is_a_failure() -> None:
    market = Market(Unavailable("binance", "no answer"))
    with pytest.raises(Unavailable):
        await market.builtin.complete(asking("BTC"))
    with pytest.raises(Unavailable):
        await anext(market.builtin.stream(asking("BTC")))


async def test_where_it_thinks_the_numbers_are_the_thought() -> None:
    said = await told("BTC 4h", thinks=True)
    assert said.thought.startswith("| BTC, 4h | 2025-11-19 12:00 UTC |\n|---|---|\n| Close | 65880 |\n")
    for what in ("EMA20", "EMA100", "RSI14", "MACD", "Bollinger", "ATR14", "VWAP"):
        assert f"| {what} | " in said.thought
    assert said.text == (await told("BTC 4h")).text
    assert said.usage is not None
    assert said.usage.reasoning_tokens == math.ceil(len(said.thought.encode()) / 4)


async def test_tokens_are_four_bytes() -> None:
    said = await told("BTC")
    sizes = sum(map(len, ("DOGE on 1m", "And LINK?", "No.", "BTC")))
    assert said.usage == Usage(math.ceil(sizes / 4), math.ceil(len((said.text or "").encode()) / 4))
    assert await Market().builtin.tokens_in(asking("BTC")) == said.usage.tokens_in


@pytest.mark.parametrize("tokens", [1, 16, 20, 100, 150, 400])
@pytest.mark.parametrize("thinks", [False, True])
async def test_no_more_is_said_than_is_let(tokens: int, thinks: bool) -> None:
    whole = await told("BTC", thinks=thinks)
    said = await told("BTC", thinks=thinks, tokens=tokens)
    assert said.usage is not None
    assert whole.usage is not None
    assert said.usage.tokens_out == min(tokens, whole.usage.tokens_out)
    assert said.finish == ("length" if tokens < whole.usage.tokens_out else "stop")
    assert whole.thought.startswith(said.thought)
    assert (whole.text or "").startswith(said.text or "")
    # What is said begins when all is thought.
    assert not said.text or said.thought == whole.thought


async def test_nothing_is_said_where_a_thought_was_cut_in_a_character() -> None:
    async def find(coin: str) -> Instrument:
        return an_instrument(coin="x\u0411")

    said = await Builtin(find, Market().gather).complete(asking("BTC", thinks=True, tokens=1))
    assert (said.thought, said.text, said.finish) == ("| x", "", "length")


async def test_hi_in_twenty_tokens_is_cut() -> None:
    said = await told("hi", tokens=20)
    assert (said.finish, said.usage and said.usage.tokens_out) == ("length", 20)


@pytest.mark.parametrize("stop", ["## Key levels", ["## Signals", "## Key levels"]])
async def test_it_stops_where_it_is_told_to(stop: Any) -> None:
    said = await told("BTC", stop=stop)
    assert "## Trend" in (said.text or "")
    assert "## Key levels" not in (said.text or "")
    assert said.finish == "stop"


async def test_a_stream_is_the_same_word_by_word() -> None:
    conversation = asking("SOL 1d", thinks=True)
    deltas = [delta async for delta in Market().builtin.stream(conversation)]
    whole = await Market().builtin.complete(conversation)
    assert "".join(delta.text for delta in deltas) == whole.text
    assert "".join(delta.thought for delta in deltas) == whole.thought
    assert deltas[-1] == Delta(finish="stop", usage=whole.usage)
    assert all(delta.finish is None for delta in deltas[:-1])
    assert all(len((delta.text + delta.thought).split()) <= 1 for delta in deltas)
    thinking = [bool(delta.thought) for delta in deltas[:-1]]
    assert thinking == sorted(thinking, reverse=True)


async def test_the_same_material_gives_the_same_words() -> None:
    assert await told("BTC 4h", thinks=True) == await told("BTC 4h", thinks=True)


def test_it_says_what_it_is() -> None:
    builtin = Market().builtin
    assert (builtin.provider, builtin.upstream_model, builtin.status()) == ("builtin", "builtin-narrator", "available")


@given(
    st.text(max_size=60) | st.lists(st.sampled_from(["BTC", "$", "/", "USDT", "4h", "é", "\n", "`", "\ud800", " "])).map("".join),
    st.integers(1, 200),
    st.booleans(),
)  # fmt: skip
def test_whatever_is_asked_is_answered_within_its_bound(question: str, tokens: int, thinks: bool) -> None:
    said = asyncio.run(told(question, tokens=tokens, thinks=thinks))
    assert said.usage is not None
    assert 0 < said.usage.tokens_out <= tokens
    assert len((said.thought + (said.text or "")).encode()) <= 4 * tokens


async def test_a_price_of_nothing_is_told_too() -> None:
    said = await Market(closes=[Decimal("0.00000001")]).builtin.complete(asking("BTC", thinks=True))
    assert "| EMA20 | n/a |" in said.thought
    assert "Not enough evidence" in (said.text or "")
