"""What a venue is: a translator without a socket, a clock or a file. Bytes and a time in; events, addresses, greetings out.

`feed` owns the sockets, the retries and the clock, once, for all venues. A venue file holds three things: how its frames
become events (`streams`, `subscribe`, `decode`), how its REST answers become events (`request`, `page`), and what its
limits are (`limits`). A question to REST is an `Ask`; an answer becomes a `Page`, which carries the `Ask` for what is
still missing, so that paging, cursors and restarts need no state in the venue.
"""

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Literal, Protocol

import msgspec

from openoutcry.events import Event
from openoutcry.instrument import Exchange, Instrument, Kind


class Feed(StrEnum):
    """What a stream carries."""

    TRADES = "trades"
    CANDLES = "candles"  # the venue's own one-minute candles
    QUOTES = "quotes"
    DEPTH = "depth"
    LIQUIDATIONS = "liquidations"
    OPEN_INTEREST = "open_interest"
    FUNDING = "funding"
    MARK_PRICE = "mark_price"


class Stream(msgspec.Struct, frozen=True):
    """One subscription. `name` is the venue's own word for it, `endpoint` which of its sockets carries it.

    `symbol` is "*" where one stream carries many instruments (all, or all options on one underlying). `silence_s`: after so long without a frame of it something
    is wrong; None where silence is normal (liquidations). Several feeds may share one stream (`feeds`).
    """

    name: str
    endpoint: str
    symbol: str
    feeds: frozenset[Feed]
    silence_s: float | None


class Rate(msgspec.Struct, frozen=True):
    """At most `count` in any `per_s` seconds."""

    count: int
    per_s: float


class Heartbeat(msgspec.Struct, frozen=True):
    """Send `frame` (as text) after `every_s`; with `idle` only when nothing was received for so long."""

    every_s: float
    frame: bytes
    idle: bool = False


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What the venue allows. Pools of weight are per address and named in `Request.pool`."""

    streams_per_connection: int
    streams_per_subscribe: int
    messages: Rate  # frames we may send on one connection
    connections: Rate  # new connections from one address
    lifetime_s: float  # the venue cuts a connection after so long; it is renewed before
    weights: Mapping[str, Rate]
    weight_header: str | None = None  # answer header that tells the weight used in the running window
    heartbeat: Heartbeat | None = None
    silence_s: float = 60.0  # a connection without any frame for so long is dead
    # How trade ids of one instrument run. "one": each is the last plus one, so a jump means that we missed some.
    # "count": the same, but an id is the last of `Trade.count` merged ones. "free": nothing can be told from them.
    trade_ids: Literal["free", "one", "count"] = "free"
    # Its own candles carry no quote volume, only our estimate of it: what our trades say is kept.
    quote_estimated: bool = False
    # Its REST candles of an interval without a trade: "told" flat, so that a missing one is a hole; or "omitted".
    quiet_candles: Literal["told", "omitted"] = "told"
    # A flat candle may appear so late: before that, one that is not there proves nothing.
    candles_late_s: float = 60.0
    # Where a book's first levels come from: the depth stream tells them itself, or Query.DEPTH must be asked for them.
    depth_snapshots: Literal["streamed", "asked"] = "streamed"
    # Pools that every venue of the same operator and address budget draws from (Binance USDM and COINM), by pool name:
    # the name they share between venues. A pool that is not named here is the venue's own.
    shared_pools: Mapping[str, str] = {}


class Query(StrEnum):
    """What can be asked of a venue's REST side."""

    INSTRUMENTS = "instruments"
    CANDLES = "candles"
    TRADES = "trades"
    OPEN_INTEREST = "open_interest"  # now
    OPEN_INTEREST_HISTORY = "open_interest_history"
    FUNDING = "funding"  # now: running rate, next settlement, mark price
    FUNDING_HISTORY = "funding_history"  # settled rates
    PREDICTED_FUNDING = "predicted_funding"
    OPTION_INTEREST = "option_interest"  # now, of all options on one underlying, each with the underlying's price
    POSITIONS = "positions"  # now, of one holder
    TICKERS = "tickers"  # 24 h summaries of all instruments
    DEPTH = "depth"  # all levels now, one DepthSnapshot; `limit` levels a side
    TIME = "time"  # is it alive


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """A question: [start_ns, end_ns), oldest first unless `newest`; `limit` rows at most in all.

    `symbol` is the venue's; of OPTION_INTEREST the underlying's coin, of POSITIONS the holder's address.
    `newest`: the newest `limit` rows up to `end_ns` (now where None). `from_id`: trades after this venue id. `cursor` is
    the venue's own way to say where a next page begins, and means nothing elsewhere.
    """

    query: Query
    symbol: str | None = None
    interval_s: int | None = None
    start_ns: int | None = None
    end_ns: int | None = None
    limit: int | None = None
    newest: bool = False
    from_id: int | str | None = None
    cursor: str | None = None


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What to send: `path` below the venue's REST address. `pool` and `weight` are what it costs there."""

    path: str
    method: str = "GET"
    query: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None
    weight: int = 1
    pool: str = "weight"


class Answer(msgspec.Struct, frozen=True):
    """What came back; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    received_ns: int


class Page(msgspec.Struct, frozen=True):
    """Events of one answer, oldest first; `instruments` for a listing; `next` asks for what remains.

    [start_ns, end_ns) is the stretch this answer is complete for: a bucket in it without a row is known to be empty.
    None where the answer makes no such promise. `unread` counts rows of an answer about many instruments that could
    not be read and were left out, so that one bad row does not cost the others.
    """

    events: Sequence[Event]
    instruments: Sequence[Instrument] = ()
    next: Ask | None = None
    start_ns: int | None = None
    end_ns: int | None = None
    unread: int = 0


# What `decode` may say besides events: things between the venue and its session.


class Reply(msgspec.Struct, frozen=True):
    """Send this frame back at once."""

    frame: bytes


class Subscribed(msgspec.Struct, frozen=True):
    """The venue took these streams; empty where it does not name them."""

    names: tuple[str, ...] = ()


class Refused(msgspec.Struct, frozen=True):
    """The venue will not serve this stream; None where it does not name it."""

    name: str | None
    reason: str


class Closing(msgspec.Struct, frozen=True):
    """The venue says it will cut this connection soon: open another now."""

    reason: str


class Alive(msgspec.Struct, frozen=True):
    """A heartbeat or an acknowledgement with nothing else in it."""


class Skipped(msgspec.Struct, frozen=True):
    """A readable frame (or row) that is not an event of ours, and why: `non_market`, `unknown_instrument`, ...

    `name` says what it was about, for the counters. Never used for what cannot be read: that is `errors.Unreadable`.
    """

    why: str
    name: str = ""


Signal = Reply | Subscribed | Refused | Closing | Alive | Skipped


class Venue(Protocol):
    """One outside exchange (and market of it). Made with no arguments; knows no I/O.

    Its only state is the listing it was taught, and what a delta needs of the frames before it (reset by `reset`).
    """

    name: str
    exchanges: Mapping[Kind, tuple[Exchange, ...]]  # what its markets are called; the first is today's name
    rest: str  # default address of REST
    sockets: Mapping[str, str]  # default address of each WebSocket endpoint
    limits: Limits
    feeds: frozenset[Feed]  # what it can stream
    queries: frozenset[Query]  # what can be asked
    intervals_s: frozenset[int]  # candle lengths its REST serves
    page_max: Mapping[Query, int]  # rows in one answer

    def learn(self, instruments: Iterable[Instrument]) -> None:
        """Replace the listing: what symbols mean, contract sizes."""
        ...

    def assume(self, symbol: str) -> Instrument | None:
        """What the spelling of an unlisted symbol tells (for replays without a listing); None where a size could not
        be converted without the listing.
        """
        ...

    def streams(self, feed: Feed, symbols: Iterable[str] | None) -> Sequence[Stream]:
        """The subscriptions that carry `feed` for these symbols; None = all instruments, where one stream has them."""
        ...

    def url(self, address: str, endpoint: str, streams: Sequence[Stream]) -> str:
        """Where to connect: below `address`, the configured address of that endpoint."""
        ...

    def subscribe(self, streams: Sequence[Stream], *, undo: bool = False) -> Sequence[bytes]:
        """The frames that ask for (or, with `undo`, give up) these streams on an open connection."""
        ...

    def decode(self, frame: bytes, received_ns: int) -> Sequence[Event | Signal]:
        """What one frame says, in the order it says it. Raises Unreadable."""
        ...

    def reset(self, endpoint: str) -> None:
        """Forget what deltas of that endpoint were built on: the connection is new."""
        ...

    def request(self, ask: Ask) -> Request:
        """What to send for `ask`. Raises Unsupported, BadInterval."""
        ...

    def page(self, ask: Ask, answer: Answer) -> Page:
        """What the answer says. Raises UnknownInstrument, RateLimited, OutOfReach, Unavailable, Unreadable."""
        ...
