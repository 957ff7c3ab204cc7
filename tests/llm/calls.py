"""A till: models over real books, an upstream that says what it is told to, and a payer with some money."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from sqlalchemy import URL

from openoutcry.chat import Conversation, Delta, Said, Usage
from openoutcry.clock import NS, ManualClock
from openoutcry.config import ModelsConfig
from openoutcry.errors import LimitExceeded, Unavailable
from openoutcry.ledger.books import Command, Outcome
from openoutcry.ledger.ledger import Ledger
from openoutcry.ledger.postings import ISSUANCE, Balance, Posting
from openoutcry.ledger.records import UsageRow
from openoutcry.llm.answers import Heard
from openoutcry.llm.models import Ask, Models, Payer, Speaking
from openoutcry.stores.ledger import SqlLedger
from openoutcry.stores.usage import SqlUsage
from openoutcry.telemetry import Telemetry

START_NS = 1_000_000 * NS
GRANTED = 10_000
PROMPT = 10
ROUNDS_MAX = 200_000

# One micro a token in, two a token out.
PRICES: Mapping[str, Any] = {
    "usd_per_1k_in": Decimal(1),
    "usd_per_1k_out": Decimal(2),
    "fee_multiplier": Decimal(1),
    "kai_usd": Decimal(1_000),
}

Step = Delta | BaseException | asyncio.Event


class Actor:
    """A route that plays its script: it says a delta, raises, or waits for an event."""

    provider = "stage"
    upstream_model = "stage/large"

    def __init__(self, *script: Step) -> None:
        self.script: Sequence[Step] = script
        self.asked: list[Conversation] = []
        self.said = 0
        self.closed = 0
        self.prompt = PROMPT

    def status(self) -> str:
        return "available"

    async def tokens_in(self, conversation: Conversation) -> int:
        assert conversation.output_tokens_max > 0
        return self.prompt

    async def complete(self, conversation: Conversation) -> Said:
        heard = Heard(whole=True)
        async for delta in self.stream(conversation):
            heard.add(delta)
        said = heard.said()
        return Said(
            text=said.text,
            thought=said.thought,
            finish=said.finish,
            tool_calls=said.tool_calls,
            usage=said.usage,
            upstream_id="up\x00-1",
        )

    async def stream(self, conversation: Conversation) -> AsyncGenerator[Delta, None]:
        self.asked.append(conversation)
        try:
            for step in self._begun(conversation):
                if isinstance(step, asyncio.Event):
                    await step.wait()
                elif isinstance(step, BaseException):
                    raise step
                else:
                    self.said += 1
                    yield step
        finally:
            self.closed += 1

    def _begun(self, _conversation: Conversation) -> Sequence[Step]:
        return self.script


class Books:
    """The real books, which can be out of reach: `fails` says how often, before or after they did it."""

    def __init__(self, inner: SqlLedger) -> None:
        self.balance, self.entries, self.due, self.check = inner.balance, inner.entries, inner.due, inner.check
        self.close = inner.close
        self._inner = inner
        self.fails = 0
        self.after = False

    def obey(self, commands: Sequence[Command], now_ns: int) -> Sequence[Outcome]:
        if self.fails:
            self.fails -= 1
            if self.after:
                self._inner.obey(commands, now_ns)
            raise Unavailable("store", "the disk is full")
        return self._inner.obey(commands, now_ns)


class Till:
    """`open` gives models anew, as another process would have them, over the same books."""

    def __init__(self, books: SqlLedger, url: URL, prefix: str = "") -> None:
        self.prefix = prefix
        self.clock = ManualClock(START_NS)
        self.books = Books(books)
        self.usage = SqlUsage(url)
        self.actor = Actor(*says("hello", Usage(12, 5)))
        self.granted: dict[str, int] = {}
        self.reserved: list[int] = []
        self.corrected: list[int] = []
        self.tokens_left = 10**9
        self._number = 0

    async def open(self, **config: Any) -> Models:
        self.telemetry = Telemetry()
        self.ledger = Ledger(self.books, self.clock, self.telemetry)
        settings = ModelsConfig(**{**PRICES, **config})
        routes = dict.fromkeys(settings.aliases, self.actor)
        self.models = Models(routes, self.ledger, self.usage, self.clock, self.telemetry, settings, new_id=self._new_id)
        return self.models

    async def close(self) -> None:
        await self.models.close()
        await self.ledger.close()

    async def grant(self, account: str, micros: int) -> None:
        number = len(self.granted)
        self.granted[account] = self.granted.get(account, 0) + micros
        moved = [Posting(ISSUANCE, "KAI", -micros), Posting(account, "KAI", micros)]
        await self.ledger.transfer(f"grant-{account}-{number}-{self.granted[account]}", moved)

    def payer(self, account: str = "a") -> Payer:
        return Payer(account, "key-1", self.reserve)

    def reserve(self, tokens: int) -> Callable[[int], None]:
        if tokens > self.tokens_left:
            raise LimitExceeded("too many tokens", 1.0)
        self.reserved.append(tokens)
        return self.corrected.append

    async def balance(self, account: str = "a") -> Balance:
        return await self.ledger.balance(account, "KAI")

    def rows(self, account: str = "a") -> Sequence[UsageRow]:
        return self.usage.rows(account, 500, status=None)

    def counted(self, name: str) -> float:
        """The counter `openoutcry_<name>`."""
        for line in self.telemetry.exposition().decode().splitlines():
            if line.startswith(f"openoutcry_{name} "):
                return float(line.split()[-1])
        return 0.0

    async def checked(self) -> None:
        """Nothing is held, and whoever paid paid what the rows say."""
        assert self.books.check() == []
        for account, granted in self.granted.items():
            balance = await self.balance(account)
            assert balance.held == 0
            assert balance.total == granted - self.usage.paid(account) >= 0
        assert len(self.corrected) == len(self.reserved)

    def _new_id(self) -> str:
        self._number += 1
        return f"{self.prefix}{self._number:032x}"


def says(text: str, usage: Usage | None = None, finish: str = "stop") -> tuple[Delta, ...]:
    """Word by word, then the finish, then what was used."""
    words = tuple(Delta(text=f"{word} ") for word in text.split())
    return (*words, Delta(finish=finish), *(() if usage is None else (Delta(usage=usage),)))


def ask(**other: Any) -> Ask:
    said = {"endpoint": "/v1/chat/completions", "model": "kai-fast", "messages": ({"role": "user", "content": "hi"},)}
    return Ask(**{**said, "fields": {}, "output_tokens_max": None, "thinks": None, **other})


async def until(condition: Callable[[], bool]) -> None:
    """Until it holds; the ledger works in threads."""
    for _ in range(ROUNDS_MAX):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never came true")


async def heard(speaking: Speaking) -> list[Delta]:
    """All of it."""
    return [delta async for delta in speaking]
