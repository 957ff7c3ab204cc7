"""Tokens of chains: asked of catalogues in turn, kept for a while, and told from what was kept while no catalogue answers."""

import asyncio
from collections import OrderedDict
from collections.abc import Mapping, Sequence

import msgspec
import structlog

from openoutcry.clock import NS, Clock
from openoutcry.config import SourceConfig
from openoutcry.errors import Crowded, Invalid, NotConfigured, RateLimited, TimedOut, Unavailable, Unknown, Unreadable
from openoutcry.feed.budget import Window
from openoutcry.sources import TOKEN_SOURCES, reading
from openoutcry.sources.source import NETWORKS, SOLANA, Network, Token, TokenAsk, TokenPage, TokenSource, Wanted
from openoutcry.telemetry import Telemetry
from openoutcry.transport import Http, TransportError, TransportTimeout
from openoutcry.venues.venue import Rate

TRENDING_MAX = 100
PUMPFUN_MAX = 50
HOURS_MAX = 72
# Lists are asked for in these lengths, so that questions that differ little are one.
LENGTHS = (20, 40, 60, 80, TRENDING_MAX)
FRESH_S: Mapping[Wanted, float] = {Wanted.TRENDING: 60.0, Wanted.TOKEN: 30.0, Wanted.PUMPFUN: 20.0}
# While nobody answers, what was told so long ago is told again.
STALE_S_MAX = 600.0
# A question nobody answered is not asked again before.
AGAIN_S = 5.0
TOKENS_KEPT_MAX = 5_000
LISTS_KEPT_MAX = 500
FLIGHTS_MAX = 200
# Pages of one question.
STEPS_MAX = 10
ANSWER_S_MAX = 8.0
# All pages of all sources that are asked for one answer.
FLIGHT_S_MAX = 20.0
# A source that fails is left alone for so long, then for twice as long, ...
FAILING_S_MIN, FAILING_S_MAX = 1.0, 60.0
MINUTE_S = 60.0
# Single tokens may use so much of what a source takes: however many are asked for, the lists find room.
TOKEN_SHARE_MAX = 0.7
WHO = "tokens"

log = structlog.get_logger()


class Told(msgspec.Struct, frozen=True):
    """What is known; `stale`: nobody answers now, and this is what was told last."""

    rows: Sequence[Token]
    stale: bool = False


class Tokens:
    """Asks those of `sources` that `settings` leave on, and that have the key they need, in the order of the table."""

    def __init__(
        self,
        settings: Mapping[str, SourceConfig],
        *,
        http: Http,
        clock: Clock,
        telemetry: Telemetry,
        answer_s_max: float = ANSWER_S_MAX,
        flight_s_max: float = FLIGHT_S_MAX,
        tokens_kept_max: int = TOKENS_KEPT_MAX,
    ) -> None:
        self._clock, self._flight_s_max = clock, flight_s_max
        self._closed = False
        self._outlets = [
            _Outlet(source, about, http=http, clock=clock, telemetry=telemetry, answer_s_max=answer_s_max)
            for source, about in ((make(), settings.get(name, SourceConfig())) for name, make in TOKEN_SOURCES.items())
            if about.on and (about.api_key is not None or not source.needs_key)
        ]
        self._tokens, self._lists = _Kept(tokens_kept_max), _Kept(LISTS_KEPT_MAX)
        self._flights: dict[_Key, asyncio.Task[_Outcome]] = {}
        self._answers = telemetry.counter(
            "token_answers", "Answers about tokens, by what they were.", ["wanted", "how"]
        )
        kept = telemetry.gauge("token_answers_kept", "Answers about tokens in memory.")
        kept.set_function(lambda: len(self._tokens) + len(self._lists))

    async def trending(self, network_id: int, limit: int = 20) -> Told:
        """What is traded and looked at most there, the first first. Raises Invalid, NotConfigured, Unavailable, TimedOut."""
        network = _network(network_id)
        _check("limit", limit, TRENDING_MAX)
        lengths = [length for length in LENGTHS if length >= limit]
        keys = [_Key(Wanted.TRENDING, network.id, "", length) for length in lengths]
        ask = TokenAsk(wanted=Wanted.TRENDING, network=network, limit=lengths[0], now_ns=self._clock.now_ns())
        return await self._told(ask, keys, limit)

    async def token(self, network_id: int, address: str) -> Told:
        """One token; no row where nobody knows it. Raises Invalid, NotConfigured, Unavailable, TimedOut."""
        network = _network(network_id)
        if not reading.is_address(network, address):
            raise Invalid(f"address is none of {network.name}'s")
        address = reading.address_key(address)
        ask = TokenAsk(wanted=Wanted.TOKEN, network=network, address=address, now_ns=self._clock.now_ns())
        return await self._told(ask, [_Key(Wanted.TOKEN, network.id, address, 1)], 1)

    async def pumpfun(self, limit: int = 10, hours: int = 24) -> Told:
        """Coins of pump.fun that were traded within `hours`, the most valuable first.

        Raises Invalid, NotConfigured, Unavailable, TimedOut.
        """
        _check("limit", limit, PUMPFUN_MAX)
        _check("hours", hours, HOURS_MAX)
        now_ns = self._clock.now_ns()
        ask = TokenAsk(
            wanted=Wanted.PUMPFUN,
            network=NETWORKS[SOLANA],
            limit=PUMPFUN_MAX,
            since_ns=now_ns - hours * 3_600 * NS,
            now_ns=now_ns,
        )
        return await self._told(ask, [_Key(Wanted.PUMPFUN, SOLANA, "", hours)], limit)

    async def close(self) -> None:
        """Ask nothing any more; who still waits is told Unavailable."""
        self._closed = True
        flights = list(self._flights.values())
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)

    async def _told(self, ask: TokenAsk, keys: "Sequence[_Key]", limit: int) -> Told:
        """From what is kept under the first of `keys`, or under another that holds more; else from who knows."""
        if not self._outlets_for(ask.wanted):
            raise NotConfigured(f"no source answers questions of {ask.wanted}: set sources.geckoterminal.on")
        key, kept = keys[0], self._of(ask.wanted)
        fresh = kept.within(keys, self._clock.now_ns(), FRESH_S[ask.wanted])
        if fresh is not None:
            return self._tell(ask.wanted, "kept", fresh, limit)
        outcome = await self._outcome(key, ask)
        if not isinstance(outcome, _Problem):
            return self._tell(ask.wanted, "asked", outcome, limit)
        stale = kept.within(keys, self._clock.now_ns(), STALE_S_MAX)
        if stale is not None:
            return self._tell(ask.wanted, "stale", stale, limit)
        self._answers.labels(ask.wanted, "none").inc()
        raise outcome.refusal()

    def _tell(self, wanted: Wanted, how: str, rows: Sequence[Token], limit: int) -> Told:
        self._answers.labels(wanted, how).inc()
        return Told(rows[:limit], stale=how == "stale")

    async def _outcome(self, key: "_Key", ask: TokenAsk) -> "_Outcome":
        """One flight, however many wait for it; who leaves does not end it for the others."""
        flight = self._flights.get(key)
        if flight is None:
            problem = self._of(ask.wanted).problem(key, self._clock.now_ns())
            if problem is not None:
                return problem
            if self._closed:
                return _CLOSING
            if len(self._flights) >= FLIGHTS_MAX:
                return _Problem("too many questions about tokens at once", retry_s=1.0)
            flight = self._flights[key] = asyncio.get_running_loop().create_task(self._fly(key, ask), name="tokens")
            flight.add_done_callback(lambda _: self._flights.pop(key))
        await asyncio.wait({flight})
        return _CLOSING if flight.cancelled() else flight.result()

    async def _fly(self, key: "_Key", ask: TokenAsk) -> "_Outcome":
        outcome: _Outcome
        try:
            async with asyncio.timeout(self._flight_s_max):
                outcome = await self._ask(ask)
        except TimeoutError:
            outcome = _Problem("no token source answers in time", retry_s=None, timed_out=True)
        kept, now_ns = self._of(ask.wanted), self._clock.now_ns()
        if isinstance(outcome, _Problem):
            kept.fail(key, outcome, now_ns)
        else:
            kept.keep(key, outcome, now_ns)
        return outcome

    async def _ask(self, ask: TokenAsk) -> "_Outcome":
        """What the first source says that answers."""
        unknown = False
        refusals: list[Unavailable] = []
        for outlet in self._outlets_for(ask.wanted):
            try:
                rows = await outlet.rows(ask)
            except Unknown:
                # Another may have listed it already.
                unknown = True
            except Unavailable as e:
                refusals.append(e)
            else:
                return sorted(rows, key=_cap, reverse=True) if ask.wanted is Wanted.PUMPFUN else rows
        return () if unknown else _Problem.of(refusals)

    def _outlets_for(self, wanted: Wanted) -> "Sequence[_Outlet]":
        return [outlet for outlet in self._outlets if wanted in outlet.answers]

    def _of(self, wanted: Wanted) -> "_Kept":
        return self._tokens if wanted is Wanted.TOKEN else self._lists


class _Key(msgspec.Struct, frozen=True):
    """`size`: rows of a list, hours of pump.fun."""

    wanted: Wanted
    network_id: int
    address: str
    size: int


class _Problem(msgspec.Struct, frozen=True):
    """Why nobody answered, told to each who waited in an error of his own."""

    text: str
    retry_s: float | None
    timed_out: bool = False

    @classmethod
    def of(cls, refusals: Sequence[Unavailable]) -> "_Problem":
        """In the words of the first: what is asked first is what should answer."""
        waits = [each.retry_s for each in refusals if each.retry_s is not None]
        timed_out = all(isinstance(each, TimedOut) for each in refusals)
        return cls(refusals[0].text, min(waits, default=None), timed_out)

    def refusal(self) -> Unavailable:
        return (TimedOut if self.timed_out else Unavailable)(WHO, self.text, self.retry_s)


_Outcome = Sequence[Token] | _Problem
_CLOSING = _Problem("the server is about to stop", retry_s=None)


class _Entry(msgspec.Struct):
    rows: Sequence[Token] | None = None
    told_ns: int = 0
    problem: _Problem | None = None
    failed_ns: int = 0


class _Kept:
    """Up to `most` answers; the one whose question was asked the longest ago goes first."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._entries: OrderedDict[_Key, _Entry] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def within(self, keys: Sequence[_Key], now_ns: int, seconds: float) -> Sequence[Token] | None:
        """What was told under one of `keys` less than `seconds` ago; of several, the newest."""
        found = [entry for entry in map(self._entries.get, keys) if entry is not None and entry.rows is not None]
        newest = max(found, key=lambda entry: entry.told_ns, default=None)
        if newest is None or not 0 <= now_ns - newest.told_ns < seconds * NS:
            return None
        return newest.rows

    def problem(self, key: _Key, now_ns: int) -> _Problem | None:
        """Why it was not answered a moment ago."""
        entry = self._entries.get(key)
        if entry is None or not 0 <= now_ns - entry.failed_ns < AGAIN_S * NS:
            return None
        return entry.problem

    def keep(self, key: _Key, rows: Sequence[Token], now_ns: int) -> None:
        entry = self._entry(key)
        entry.rows, entry.told_ns, entry.problem = rows, now_ns, None

    def fail(self, key: _Key, problem: _Problem, now_ns: int) -> None:
        entry = self._entry(key)
        entry.problem, entry.failed_ns = problem, now_ns

    def _entry(self, key: _Key) -> _Entry:
        entry = self._entries.setdefault(key, _Entry())
        self._entries.move_to_end(key)
        if len(self._entries) > self._most:
            self._entries.popitem(last=False)
        return entry


class _Outlet:
    """One source where it is, with our key, within what it takes, and left alone when it asks for that."""

    def __init__(
        self,
        source: TokenSource,
        about: SourceConfig,
        *,
        http: Http,
        clock: Clock,
        telemetry: Telemetry,
        answer_s_max: float,
    ) -> None:
        self.answers = source.answers
        self._source, self._name = source, source.name
        self._url = (about.url or source.url).rstrip("/")
        self._key = None if about.api_key is None else about.api_key.get_secret_value()
        if self._key is not None and not (self._key.isascii() and self._key.isprintable()):
            raise NotConfigured(f"sources.{source.name}.api_key holds what no header can carry")
        self._http, self._clock, self._answer_s_max = http, clock, answer_s_max
        self._budget = Window(Rate(source.per_min, MINUTE_S))
        self._paused_until_ns, self._failures, self._ill = 0, 0, ""
        self._asked = telemetry.counter(
            "token_requests", "Questions to token sources, by outcome.", ["source", "outcome"]
        )
        self._skipped = telemetry.counter("token_rows_skipped", "Rows of token sources that were not read.", ["source"])

    async def rows(self, ask: TokenAsk) -> Sequence[Token]:
        """Page by page, each token once. Raises Unavailable, Unknown."""
        rows: Sequence[Token] = ()
        following: TokenAsk | None = ask
        for _ in range(STEPS_MAX):
            if following is None or len(rows) >= ask.limit:
                break
            try:
                page = await self._page(following)
            except Unavailable:
                if not rows:
                    raise
                # What came is right, and less than was asked for.
                break
            rows = reading.distinct([*rows, *page.tokens])
            following = page.next
        if not rows and ask.wanted is Wanted.TRENDING:
            raise Unavailable(self._name, f"{self._name} names no tokens")
        return rows

    async def _page(self, ask: TokenAsk) -> TokenPage:
        try:
            page = await self._once(ask)
        except Unavailable as e:
            self._asked.labels(self._name, e.code).inc()
            # That it was not asked is no fault of its.
            if not isinstance(e, Crowded):
                self._complain(e.text)
            raise
        except Unknown:
            self._well("unknown")
            raise
        self._well("answered")
        self._skipped.labels(self._name).inc(page.skipped)
        return page

    async def _once(self, ask: TokenAsk) -> TokenPage:
        now_ns = self._clock.now_ns()
        if now_ns < self._paused_until_ns:
            wait_s = (self._paused_until_ns - now_ns) / NS
            raise Crowded(self._name, self._ill or f"{self._name} is left alone for now", wait_s)
        wait_s = self._budget.wait_s(1, now_ns, TOKEN_SHARE_MAX if ask.wanted is Wanted.TOKEN else 1.0)
        if wait_s > 0:
            raise Crowded(self._name, f"what may be asked of {self._name} in a minute is used up", wait_s)
        self._budget.spend(1, now_ns)
        request = self._source.request(ask, self._key)
        try:
            async with asyncio.timeout(self._answer_s_max):
                response = await self._http.send(
                    request.method,
                    self._url + request.path,
                    query=request.query,
                    headers=request.headers,
                    body=request.body,
                )
        except (TimeoutError, TransportTimeout) as e:
            self._fail()
            raise TimedOut(self._name, f"{self._name} does not answer in time") from e
        except TransportError as e:
            self._fail()
            raise Unavailable(self._name, f"{self._name} does not answer") from e
        try:
            return self._source.decode(ask, response.status, response.headers, response.body)
        except RateLimited as e:
            self._pause(e.retry_s)
            raise
        except Unavailable:
            self._fail()
            raise
        except Unreadable as e:
            # One strange token is no reason to leave the source alone.
            if ask.wanted is not Wanted.TOKEN:
                self._fail()
            raise Unavailable(self._name, f"{self._name} answers what cannot be read: {e.why}") from e

    def _pause(self, seconds: float | None) -> None:
        until_ns = self._clock.now_ns() + round((seconds or FAILING_S_MIN) * NS)
        self._paused_until_ns = max(self._paused_until_ns, until_ns)

    def _fail(self) -> None:
        # The power is bounded before it is taken.
        self._pause(min(FAILING_S_MIN * 2.0 ** min(self._failures, 10), FAILING_S_MAX))
        self._failures += 1

    def _complain(self, why: str) -> None:
        """Said once, until it is well or ill of something else."""
        if self._ill != why:
            self._ill = why
            log.warning("token source fails", source=self._name, why=why)

    def _well(self, how: str) -> None:
        self._asked.labels(self._name, how).inc()
        self._failures = 0
        if self._ill:
            self._ill = ""
            log.info("token source answers again", source=self._name)


def _network(network_id: int) -> Network:
    network = NETWORKS.get(network_id)
    if network is None:
        known = ", ".join(f"{each.id} ({each.name})" for each in NETWORKS.values())
        raise Invalid(f"network_id must be one of {known}")
    return network


def _check(name: str, value: int, most: int) -> None:
    if not 1 <= value <= most:
        raise Invalid(f"{name} must be between 1 and {most}")


def _cap(token: Token) -> float:
    return -1.0 if token.market_cap is None else token.market_cap
