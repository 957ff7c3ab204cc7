"""The built-in narrator as a model: tells by rules of the coin and interval that the last question names.

It is no language model, and says so first. What it is asked beside that it cannot do, and says that too. The same material
gives the same words. A token is four bytes.
"""

import math
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any

from openoutcry.aggregates.indicators import Indicators, indicators
from openoutcry.chat import Conversation, Delta, Said, Usage
from openoutcry.errors import Invalid, NoData, Unknown
from openoutcry.events import Candle
from openoutcry.instrument import Instrument
from openoutcry.llm import narrator
from openoutcry.llm.figures import length
from openoutcry.llm.material import Gather, Material
from openoutcry.llm.news_rules import COINS

# EMA100 needs 100 candles; the rest lets it forget what it began with.
CANDLES = 150
BYTES_PER_TOKEN = 4
QUESTION_CHARS_MAX = 4_000
# Words of a question that are looked up in the listing.
LOOKUPS_MAX = 8
INTERVAL_S = 3_600
INTERVALS_S = (60, 300, 900, 3_600, 14_400, 43_200, 86_400, 604_800)
STOPS_MAX = 16

HELP = (
    "I describe markets by fixed rules. Name a coin and, if you like, an interval, and I tell what its candles and indicators "
    "say: `BTC 4h`, `ETH/USDT 15m`, `How is Solana doing, daily?`\n\n"
    f"Intervals: {' '.join(map(length, INTERVALS_S))}.\n\n"
    "I cannot talk, reason, write code, call tools or see pictures: for that whoever runs this server sets up a language model."
)
NO_TOOLS = "Tools were offered: rules cannot call them."
NO_JSON = "An answer in JSON was asked for: rules answer in sentences only."
NO_PICTURES = "Something other than text was sent: rules cannot read it."

_UNITS_S: Mapping[str, int] = {"m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_WORDS_S: Mapping[str, int] = {"hourly": 3_600, "daily": 86_400, "weekly": 604_800}
_INTERVAL = re.compile(
    r"(?<![\w.])(\d{1,3})\s?-?(m|min|mins|minutes?|h|hrs?|hours?|d|days?|w|weeks?)\b|\b(hourly|daily|weekly)\b",
    re.IGNORECASE,
)
# Coins that are spelled like words are meant where they stand in capitals, with a dollar, or in a pair.
_LIKE_WORDS = frozenset({
    "APT", "ARB", "ATOM", "DAI", "DOT", "ENA", "ETC", "FIL", "HYPE", "ICP", "JUP", "LINK", "NEAR", "OP", "POL", "PUMP", "RUNE",
    "SAND", "SEI", "STX", "SUI", "TIA", "TON", "TRUMP", "UNI", "VET", "WIF",
})  # fmt: skip
# Words in capitals that are about a market and not one.
_NO_COINS = frozenset({
    "ADX", "AI", "API", "ATH", "ATR", "BB", "CEO", "DCA", "EMA", "ETF", "EU", "EUR", "EUROS", "FED", "FVG", "HODL", "JSON", "LLM",
    "LONG", "MA", "MACD", "NFT", "OBV", "OI", "OK", "PNL", "RSI", "SEC", "SHORT", "SMA", "TA", "TP", "SL", "UK", "US", "USA", "USD",
    "USDC", "USDT", "UTC", "VWAP",
})  # fmt: skip
_NAMES = {name.lower(): coin for coin, names in COINS.items() for name in names}
_NAMED = re.compile(
    rf"\b(?:{'|'.join(re.escape(each) for each in sorted(_NAMES, key=len, reverse=True))})\b", re.IGNORECASE
)
_PAIR = re.compile(r"\b([A-Za-z0-9]{2,15})(?:[-/_](?:USDT?|USDC|PERP)|(?<=[A-Za-z])USDT)\b", re.IGNORECASE)
_DOLLAR = re.compile(r"\$([A-Za-z][A-Za-z0-9]{1,14})\b")
_WORD = re.compile(r"(?<![\w$])[A-Za-z0-9]{2,15}\b")
_PIECE = re.compile(r"\S+\s*|\s+")

Find = Callable[[str], Awaitable[Instrument | None]]


class Builtin:
    """`find` gives the instrument that a coin means, None where there is none; `gather` brings what is known of it."""

    provider = narrator.PROVIDER
    upstream_model = narrator.MODEL

    def __init__(
        self, find: Find, gather: Gather, *, indicate: Callable[[Sequence[Candle]], Indicators] = indicators
    ) -> None:
        self._find = find
        self._gather = gather
        self._indicate = indicate

    def status(self) -> str:
        """Rules are always there."""
        return "available"

    async def tokens_in(self, conversation: Conversation) -> int:
        """Those that it bills."""
        return _tokens_in(conversation)

    async def complete(self, conversation: Conversation) -> Said:
        """The whole answer. Raises Unavailable where the market is."""
        thought, text = await self._told(conversation)
        thought, text, finish = _bounded(conversation, thought, text)
        return Said(text=text, thought=thought, finish=finish, usage=_usage(conversation, thought, text))

    async def stream(self, conversation: Conversation) -> AsyncGenerator[Delta, None]:
        """The same, word by word. Raises Unavailable before the first."""
        said = await self.complete(conversation)
        for piece in _PIECE.findall(said.thought):
            yield Delta(thought=piece)
        for piece in _PIECE.findall(said.text or ""):
            yield Delta(text=piece)
        yield Delta(finish=said.finish, usage=said.usage)

    async def _told(self, conversation: Conversation) -> tuple[str, str]:
        """The thought and the text, however long. Raises Unavailable."""
        question = _question(conversation)
        notes = list(_notes(conversation))
        interval_s, named = _interval_s(question)
        if named and interval_s is None:
            notes.append(f"There are no candles of that length: these are of {length(INTERVAL_S)}.")
        instrument, missed = await self._instrument(question)
        if instrument is None:
            unlisted = [f"`{missed}` is not listed here."] if missed else []
            return "", "\n\n".join([narrator.FIRST_LINE, *notes, *unlisted, HELP]) + "\n"
        try:
            material = _some(await self._gather(instrument, interval_s or INTERVAL_S, CANDLES))
        except (Invalid, NoData, Unknown) as e:
            return "", "\n\n".join([narrator.FIRST_LINE, *notes, f"I can tell nothing of it: {e.text}.", HELP]) + "\n"
        told = self._indicate(material.candles)
        thought = narrator.table(material, told) if conversation.thinks else ""
        return thought, narrator.narrate(material, told, question, notes)

    async def _instrument(self, question: str) -> tuple[Instrument | None, str]:
        """The first that is named and listed; else what was surely meant as a coin."""
        missed = ""
        for lookups, (coin, sure) in enumerate(_coins(question)):
            if lookups == LOOKUPS_MAX:
                break
            found = await self._find(coin)
            if found is not None:
                return found, ""
            if sure and not missed:
                missed = coin
        return None, missed


def _some(material: Material) -> Material:
    if not material.candles:
        raise NoData(f"there is no closed candle of {material.instrument.coin} at {length(material.interval_s)}")
    return material


def _question(conversation: Conversation) -> str:
    # It is shown again: half a character, which no dialect lets through, becomes a question mark.
    return _text(_asked(conversation))[:QUESTION_CHARS_MAX].encode(errors="replace").decode()


def _asked(conversation: Conversation) -> Any:
    """The content of the last question."""
    return next((each.get("content") for each in reversed(conversation.messages) if each.get("role") == "user"), None)


def _text(content: Any) -> str:
    """What is text of a message's content."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list | tuple):
        return ""
    texts = (part.get("text") for part in content if isinstance(part, Mapping) and part.get("type") == "text")
    return "\n".join(text for text in texts if isinstance(text, str))


def _notes(conversation: Conversation) -> Iterator[str]:
    fields = conversation.fields
    if fields.get("tools"):
        yield NO_TOOLS
    wanted = fields.get("response_format")
    if isinstance(wanted, Mapping) and wanted.get("type") not in {None, "text"}:
        yield NO_JSON
    parts = _asked(conversation)
    if isinstance(parts, list | tuple) and any(
        not isinstance(each, Mapping) or each.get("type") != "text" for each in parts
    ):
        yield NO_PICTURES


def _interval_s(question: str) -> tuple[int | None, bool]:
    """The first interval named that there is; and whether any was named."""
    named = False
    for many, unit, word in _INTERVAL.findall(question):
        named = True
        interval_s = _WORDS_S[word.lower()] if word else int(many) * _UNITS_S[unit[0].lower()]
        if interval_s in INTERVALS_S:
            return interval_s, True
    return None, named


def _coins(question: str) -> Iterator[tuple[str, bool]]:
    """What may be meant as a coin, each once: first what is surely meant so, in the question's order; then other capitals."""
    hits = [(hit.start(), hit[1].upper()) for pattern in (_DOLLAR, _PAIR) for hit in pattern.finditer(question)]
    taken = [hit.span() for hit in _NAMED.finditer(question)]
    hits += [(hit.start(), _NAMES[hit[0].lower()]) for hit in _NAMED.finditer(question)]
    words = [hit for hit in _WORD.finditer(question) if not any(start <= hit.start() < end for start, end in taken)]
    for hit in words:
        coin = hit[0].upper()
        if coin in COINS and coin not in _NO_COINS and (hit[0].isupper() or coin not in _LIKE_WORDS):
            hits.append((hit.start(), coin))
    given = set()
    for _, coin in sorted(hits):
        if coin not in given:
            given.add(coin)
            yield coin, True
    for hit in words:
        if hit[0].isupper() and hit[0] not in _NO_COINS and hit[0] not in given:
            given.add(hit[0])
            yield hit[0], False


def _bounded(conversation: Conversation, thought: str, text: str) -> tuple[str, str, str]:
    """Thought and text as far as the bound on tokens and the caller's stops let them, and why they end."""
    finish = "stop"
    for stop in _stops(conversation.fields.get("stop")):
        text = text.partition(stop)[0]
    left = conversation.output_tokens_max * BYTES_PER_TOKEN
    shown = thought.encode()[:left].decode(errors="ignore")
    left -= len(shown.encode())
    said = text.encode()[:left].decode(errors="ignore") if shown == thought else ""
    if (shown, said) != (thought, text):
        finish = "length"
    return shown, said, finish


def _stops(told: Any) -> Sequence[str]:
    many = told[:STOPS_MAX] if isinstance(told, list | tuple) else (told,)
    return [each for each in many if isinstance(each, str) and each]


def _usage(conversation: Conversation, thought: str, text: str) -> Usage:
    thought_bytes = len(thought.encode())
    return Usage(
        _tokens_in(conversation),
        _tokens(thought_bytes + len(text.encode())),
        reasoning_tokens=_tokens(thought_bytes) if conversation.thinks else None,
    )


def _tokens_in(conversation: Conversation) -> int:
    sizes = (len(_text(each.get("content")).encode(errors="replace")) for each in conversation.messages)
    return _tokens(sum(sizes))


def _tokens(size_bytes: int) -> int:
    return math.ceil(size_bytes / BYTES_PER_TOKEN)
