"""What every outside source of tokens or news gives, and the words for it: pure translation, no I/O, no clock.

A question is a `TokenAsk`: `request` says what to send for it, `decode` what came back, and `TokenPage.next` is the question
for what remains, so that no source needs a state.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Literal, Protocol

import msgspec


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What to send to `path` below a source's address. `headers` may hold a key."""

    path: str
    method: str = "GET"
    query: tuple[tuple[str, str], ...] = ()
    headers: Mapping[str, str] = {}
    body: bytes | None = None


# -- tokens


class Network(msgspec.Struct, frozen=True):
    """A chain: its number, what GeckoTerminal calls it, what all others do, and whether addresses are those of the EVM."""

    id: int
    gecko: str
    name: str
    evm: bool = True


SOLANA = 1399811149
# By Codex's numbers.
NETWORKS: Mapping[int, Network] = {
    network.id: network
    for network in (
        Network(SOLANA, "solana", "solana", evm=False),
        Network(1, "eth", "ethereum"),
        Network(56, "bsc", "bsc"),
        Network(8453, "base", "base"),
        Network(42161, "arbitrum", "arbitrum"),
        Network(137, "polygon_pos", "polygon"),
        Network(43114, "avax", "avalanche"),
        Network(10, "optimism", "optimism"),
    )
}


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """What a source says of a token now. Numbers are for pictures; what the source does not say is None.

    Money is USD. `change_24h` is a share of the price a day ago: 0.05 is five percent more. `created_ns` is the token's first
    moment where the source tells it, else that of the oldest pool it told of. `volume_24h`, `liquidity` and `trades_24h` are
    of all pools the source told of, in GeckoTerminal's lists of the one pool that stands for the token. `market_cap` is the
    fully diluted one where no other is told.
    """

    address: str
    network_id: int
    symbol: str | None = None
    name: str | None = None
    decimals: int | None = None
    price: float | None = None
    change_24h: float | None = None
    volume_24h: float | None = None
    liquidity: float | None = None
    market_cap: float | None = None
    trades_24h: int | None = None
    image_url: str | None = None
    created_ns: int | None = None
    top_pool: str | None = None
    source: str

    @property
    def top_pair_id(self) -> str | None:
        """The top pool as Codex names it: `address:network`."""
        return None if self.top_pool is None else f"{self.top_pool}:{self.network_id}"


class Wanted(StrEnum):
    """What can be asked of tokens."""

    TRENDING = "trending"
    TOKEN = "token"  # noqa: S105 - a token of a chain
    PUMPFUN = "pumpfun"


class TokenAsk(msgspec.Struct, frozen=True, kw_only=True):
    """A question: the best `limit` tokens of a network, one token, or the coins of pump.fun that traded since `since_ns`.

    `now_ns` is when it is asked. `step` counts its pages; `addresses` are what an earlier step found.
    """

    wanted: Wanted
    network: Network
    address: str = ""
    limit: int = 1
    since_ns: int = 0
    now_ns: int = 0
    step: int = 1
    addresses: tuple[str, ...] = ()


class TokenPage(msgspec.Struct, frozen=True):
    """What one answer told: `skipped` rows could not be read; `next` asks for what remains."""

    tokens: Sequence[Token]
    skipped: int = 0
    next: TokenAsk | None = None


class TokenSource(Protocol):
    """One catalogue of tokens."""

    name: str
    url: str  # its own address
    needs_key: bool
    answers: frozenset[Wanted]
    per_min: int  # questions it takes

    def request(self, ask: TokenAsk, key: str | None) -> Request:
        """What to send. The key stands in `headers` alone."""
        ...

    def decode(self, ask: TokenAsk, status: int, headers: Mapping[str, str], body: bytes) -> TokenPage:
        """What was answered. Raises RateLimited, Unavailable, Unknown (no such token), Unreadable."""
        ...


# -- news

Label = Literal["positive", "neutral", "negative"]
LABELS: tuple[Label, ...] = ("positive", "neutral", "negative")
# What an article is about; the last is what nothing else fits.
CATEGORIES = (
    "security", "regulation", "etf", "stablecoins", "mining", "defi", "nft", "macro", "technology", "business",
    "markets", "general",
)  # fmt: skip


class Item(msgspec.Struct, frozen=True, kw_only=True):
    """An article as its source tells it, in plain text. `guid`: what the source knows it by, empty where it names none.

    `published_ns` is when it was read where the source names no time that can be believed.
    """

    guid: str
    url: str
    title: str
    source: str
    text: str = ""
    published_ns: int
    image_url: str | None = None
    tags: tuple[str, ...] = ()


class Opinion(msgspec.Struct, frozen=True, kw_only=True):
    """What was made of an article. `score` is between -1 and 1; `by`: the rules, or the model's name."""

    label: Label
    score: float
    tickers: tuple[str, ...]
    category: str
    summary: str
    by: str


class Article(msgspec.Struct, frozen=True, kw_only=True):
    """An article as we tell it. `id` is made of what the source knows it by: it is the same again after a restart.

    `feed` is the host it was read from, `excerpt` the beginning of its text.
    """

    id: int
    url: str
    title: str
    source: str
    feed: str
    published_ns: int
    received_ns: int
    excerpt: str
    image_url: str | None
    opinion: Opinion


class NewsSource(Protocol):
    """One format of news. `url` is where it is; None: wherever somebody offers it."""

    url: str | None

    def request(self, key: str | None) -> Request:
        """What to send for the newest articles; `path` is put behind the address."""
        ...

    def read(self, body: bytes, host: str, received_ns: int) -> Sequence[Item]:
        """What a good answer says, in its order. Raises Unreadable, and nothing else."""
        ...
