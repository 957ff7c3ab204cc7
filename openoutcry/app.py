"""Composition root: builds every part in the order data flows, and stops them in the reverse order.

`Server` is the same for the real venues, the demo and tests; only the `Outside` it is handed differs.
"""

import asyncio
import random
import secrets
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec
import structlog
from sqlalchemy import URL

from openoutcry.accounts.accounts import Account, Accounts
from openoutcry.accounts.callers import Callers
from openoutcry.accounts.keys import Keys
from openoutcry.accounts.limits import Limits
from openoutcry.accounts.passwords import Passwords
from openoutcry.accounts.tokens import Tokens as LoginTokens
from openoutcry.aggregates.candles import Candles
from openoutcry.aggregates.derivatives import Derivatives
from openoutcry.aggregates.indicators import Lines, indicators, lines
from openoutcry.aggregates.rollup import bounds_of
from openoutcry.aggregates.spikes import Threshold
from openoutcry.aggregates.ticker import Tickers
from openoutcry.api.admission import Admission
from openoutcry.api.asgi import HttpServer, application
from openoutcry.api.dialect import Catalogue, Doors
from openoutcry.api.dialects import DIALECTS
from openoutcry.api.lykke.client import Client
from openoutcry.api.push import Push
from openoutcry.api.rpc import RpcServer
from openoutcry.billing.billing import Billing, Freeze
from openoutcry.billing.store import BillingStore
from openoutcry.billing.stripe_api import Stripe
from openoutcry.bus import Bus
from openoutcry.clock import Clock, SystemClock
from openoutcry.config import (
    FROZEN,
    BadConfig,
    Config,
    LlmConfig,
    SourceConfig,
    UpstreamConfig,
    VenueConfig,
    address,
)
from openoutcry.errors import Refusal, Unavailable, Unknown, UnknownVenue, Unsupported
from openoutcry.events import Candle, InterestBar, LiquidationBar, Side
from openoutcry.feed.archives import Archives
from openoutcry.feed.backfill import RepairTiming
from openoutcry.feed.desk import Access, Numbers
from openoutcry.feed.drops import Drops
from openoutcry.feed.feed import Feed
from openoutcry.feed.news import News, places
from openoutcry.feed.own import Own
from openoutcry.feed.polls import PollTiming
from openoutcry.feed.recorder import Recorder, record_listing
from openoutcry.feed.session import SessionTiming
from openoutcry.feed.tasks import TaskNumbers, Tasks
from openoutcry.feed.tokens import Tokens
from openoutcry.instrument import Instrument, Kind
from openoutcry.ledger.ledger import Ledger
from openoutcry.ledger.postings import ISSUANCE, Posting
from openoutcry.ledger.usage import UsageLog
from openoutcry.llm.analyst import Analyst
from openoutcry.llm.builtin import Builtin
from openoutcry.llm.enrich import Enricher
from openoutcry.llm.material import Gather, Material
from openoutcry.llm.models import Models
from openoutcry.llm.relay import ANSWER_BYTES_MAX, Relay
from openoutcry.llm.routing import STREAM_BYTES_MAX, Line, Route, Routed
from openoutcry.market import market as market_words
from openoutcry.market.building import Building
from openoutcry.market.coins import Coins
from openoutcry.market.market import ROWS_MAX, Market
from openoutcry.market.monitor import Monitor
from openoutcry.market.outside import Outside as Venues
from openoutcry.market.series import Of, SeriesKey
from openoutcry.market.warm import Warm, last_trade
from openoutcry.money import KAI
from openoutcry.simulator.cme import PATH as CME_PATH
from openoutcry.simulator.news import FEEDS as NEWS_PATHS
from openoutcry.simulator.simulator import Addresses, Simulator
from openoutcry.simulator.traders import Anchor, Api, Direct, Traders, Walk, Worth, furnish
from openoutcry.sources import NEWS_SOURCES, TOKEN_SOURCES, interest_files
from openoutcry.sources.coinmarketcap import CoinMarketCap
from openoutcry.stores.accounts import SqlAccounts
from openoutcry.stores.analyses import SqlAnalyses
from openoutcry.stores.billing import SqlBilling
from openoutcry.stores.exchange import SqlExchange
from openoutcry.stores.exchange_inbox import SqlInbox
from openoutcry.stores.folder import DataFolder
from openoutcry.stores.keys import SqlKeys, pepper, private_file, token_secret
from openoutcry.stores.ledger import SqlLedger
from openoutcry.stores.news import SqlNews
from openoutcry.stores.sql import SqlSeries, sqlite_url
from openoutcry.stores.usage import SqlUsage
from openoutcry.telemetry import Telemetry
from openoutcry.trading import listings_file
from openoutcry.trading.gateway import OrderGateway
from openoutcry.trading.ids import time_ordered
from openoutcry.trading.sequencer import Sequencer
from openoutcry.trading.venue import EXCHANGES as OWN_EXCHANGES
from openoutcry.trading.venue import VENUE as OWN_VENUE
from openoutcry.transport import Http, HttpClient, SocketClient, Sockets
from openoutcry.upstreams import UPSTREAMS
from openoutcry.venues import ARCHIVES, VENUES
from openoutcry.venues import venue as words

DATABASE = "market.sqlite3"
ACCOUNTS = "accounts.sqlite3"
LEDGER = "ledger.sqlite3"
DEMO_KEY = "demo"
DEMO_EMAILS = ("demo@example.com", "second@example.com")
TRADER_KEY = "trader"
TRADER_EMAILS = ("maker-1@example.com", "maker-2@example.com", "taker@example.com")
MAKERS = 2
DEMO_MICROS = 1_000 * 10**KAI.scale
SEED_FILE = "demo-seed"
DAY_NS = 86_400 * 1_000_000_000
# Instruments made ready at once after a start; the others wait their turn.
WARM_AT_ONCE_MAX = 8
# A venue that was busy is asked again after so long, then after twice as long, ...
WARM_AGAIN_S = 20.0
WARM_TRIES_MAX = 8
READY_S_MAX = 10.0
# Whose positions the demo watches.
DEMO_HOLDERS = ("0x" + "d0" * 20, "0x" + "5e" * 20)
SPOT_FEEDS = frozenset({words.Feed.TRADES, words.Feed.CANDLES, words.Feed.QUOTES, words.Feed.DEPTH})

log = structlog.get_logger()

_T = TypeVar("_T")


class Outside(msgspec.Struct, frozen=True):
    """What the system needs of the world, and how to let go of it."""

    config: Config
    clock: Clock
    http: Http
    sockets: Sockets
    close: Callable[[], Awaitable[None]]
    simulator: Simulator | None = None


async def outside(config: Config) -> Outside:
    """The machine's clock and network, the venues' own addresses."""
    http = HttpClient()
    return Outside(config, SystemClock(), http, SocketClient(), http.close)


async def simulated_outside(config: Config) -> Outside:
    """The same, with every venue (and CoinMarketCap) played on a loopback port. Raises BadConfig for another seed's data."""
    _mark_seed(config.data, config.seed)
    simulator = Simulator(config.seed, SystemClock())
    await simulator.start()
    http = HttpClient()

    async def close() -> None:
        await http.close()
        await simulator.stop()

    return Outside(simulated(config, simulator), SystemClock(), http, SocketClient(), close, simulator)


def simulated(config: Config, simulator: Simulator) -> Config:
    """The settings with the addresses of a running simulator in place of the venues' own."""
    addresses = simulator.addresses()
    listed = {listing.name for listing in simulator.world.listings()}
    venues = {
        name: venue.model_copy(
            update={
                "on": venue.on and name in addresses,
                **(_played(name, addresses[name]) if name in addresses else {}),
                "instruments": tuple(s for s in venue.instruments if f"{name}:{s}" in listed),
            }
        )
        for name, venue in config.venues.items()
    }
    catalogue = config.takashi.model_copy(update={"coinmarketcap_url": addresses["coinmarketcap"]["rest"]})
    file = f"{addresses['cme']['rest']}{CME_PATH}" if "cme" in addresses else None
    cme = config.cme.model_copy(update={"source": file})
    news, sources = config.news, dict(config.sources)
    if "news" in addresses:
        papers = addresses["news"]["rest"]
        news = news.model_copy(update={"feeds": tuple(papers + path for path in NEWS_PATHS)})
        sources["coindesk"] = sources.get("coindesk", SourceConfig()).model_copy(update={"url": papers})
    for name in TOKEN_SOURCES:
        # One that is not played is not asked: what trades outside is none of this world's.
        played_at = {"url": addresses[name]["rest"]} if name in addresses else {"on": False}
        sources[name] = sources.get(name, SourceConfig()).model_copy(update=played_at)
    played = {"venues": venues, "takashi": catalogue, "cme": cme, "news": news, "sources": sources}
    return config.model_copy(update=played)


def _played(name: str, addresses: Addresses) -> dict[str, Any]:
    # The simulator also plays roots that no adapter uses any more.
    known = VENUES[name]().sockets
    sockets = {endpoint: url for endpoint, url in addresses["sockets"].items() if endpoint in known}
    watched = {"holders": DEMO_HOLDERS} if words.Query.POSITIONS in VENUES[name]().queries else {}
    return {"rest": addresses["rest"], "sockets": sockets, "archive": addresses["archive"] or None, **watched}


class Server:
    """Everything that runs. `start` returns when it answers and the followed venues have been heard."""

    def __init__(self, world: Outside) -> None:
        self._world = world
        self._config = world.config
        self.bus = Bus()
        self.telemetry = Telemetry()
        self._stack = AsyncExitStack()
        self._stack.push_async_callback(world.close)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._failed: str | None = None
        self._warming = asyncio.Semaphore(WARM_AT_ONCE_MAX)
        self._http_at = self._grpc_at = ""
        self._shown_keys: list[str] = []

    async def start(self) -> None:
        """Raises Refusal: a folder that is taken, an address that cannot be had, a setting that is wrong."""
        config, clock = self._config, self._world.clock
        check_sources(config)
        series = self._store()
        self.keys = await self._made_keys()
        self.accounts = self._made_accounts()
        self.ledger, self.usage, answers = self._books()
        self.limits = Limits(clock, self.telemetry)
        self.feed = self._feed(series)
        self._stack.push_async_callback(self.feed.stop)
        self.gateway, sequencer, tape = await self._exchange()
        candles = Candles(
            grace_s=config.candles.grace_s,
            minutes_kept=config.candles.minutes_kept,
            quote_estimated=[name for name, make in VENUES.items() if make().limits.quote_estimated],
        )
        derivatives = Derivatives(grace_s=config.candles.grace_s)
        # The venues, and our own exchange beside them.
        own = Own(
            self.feed,
            tape=tape,
            listings=self.gateway.listings,
            books=self.gateway.views,
            listen=sequencer.listen,
            bus=self.bus,
            clock=clock,
            vouch=candles.vouch,
            resume=self._last_trade(series),
            resume_s=config.feed.resume_s,
        )
        self._stack.push_async_callback(own.close)
        await own.start()
        self.building = Building(
            bus=self.bus,
            clock=clock,
            telemetry=self.telemetry,
            outside=own,
            candles=candles,
            derivatives=derivatives,
            tickers=Tickers(),
        )
        self.building.keep_time(OWN_VENUE)
        self.market = Market(
            own,
            series,
            self.bus,
            clock,
            self.telemetry,
            self.building,
            market_numbers(config),
            bars=self.building,
        )
        self.tasks = backfill(self._world, self.market, own, series, self.telemetry)
        self._warm = Warm(self.market, candles, clock, back_s=config.market.look_back_s)
        self.market.on_follow = self._made_ready
        self._stack.push_async_callback(self.market.close)
        relay = self._relay()
        self.analyst = self._analyst(relay)
        self.models = Models(self._routes(), self.ledger, answers, clock, self.telemetry, config.models)
        self._stack.push_async_callback(self.models.close)
        self.billing = self._billing()
        self.news = self._news(relay)
        self.tokens = Tokens(config.sources, http=self._world.http, clock=clock, telemetry=self.telemetry)
        self._stack.push_async_callback(self.tokens.close)
        self._stack.push_async_callback(self._end_tasks)
        self._spawn("keys", self.keys.run())
        if self._world.simulator is not None:
            await self._demo_accounts()
        await self._serve()
        if self._trades():
            self._spawn("traders", self._trade())
        await self.feed.start()
        self._spawn("market", self.market.run())
        self._spawn("building", self.building.run())
        own.keep(self.market.follow)
        self._spawn("backfill", self.tasks.run())
        self._spawn("analyst", self.analyst.run())
        self._spawn("ledger", self.ledger.run())
        self._spawn("usage", self.usage.run())
        self._spawn("models", self.models.run())
        self._spawn("billing", self.billing.run())
        if self.news is not None:
            self._spawn("news", self.news.run())
        self._spawn("following", self._follow_configured())
        if config.cme.source is not None:
            self._spawn("cme", self._drops(config.cme.source).run())
        if config.spikes.on and self._on(config.spikes.venue):
            self._spawn("spikes", self._monitor().run())
        if self._world.simulator is not None:
            self._stack.callback(self._world.simulator.hush)
        await self._heard()

    async def stop(self) -> None:
        """Stop everything, in the reverse order of its start. A second call does nothing."""
        await self._stack.aclose()

    def ready_line(self) -> dict[str, Any]:
        """Where everything is, and the texts of keys made for this run (by the demo)."""
        return {
            "http": f"http://{self._http_at}",
            "grpc": self._grpc_at,
            "keys": self._shown_keys,
            "data": str(self._config.data.resolve()),
        }

    def silent(self) -> list[str]:
        """Venues that are on and were not heard yet."""
        return sorted(name for name, state in self.feed.venues().items() if not state.alive)

    # -- parts, in the order data flows

    def _store(self) -> SqlSeries:
        folder = DataFolder(self._config.data)
        self._stack.callback(folder.close)
        url = self._config.store.url
        series = SqlSeries(url.get_secret_value() if url else sqlite_url(folder.path / DATABASE))
        self._stack.callback(series.close)
        return series

    def _analyst(self, relay: Relay | None) -> Analyst:
        config, url = self._config.llm, self._config.store.url
        store = SqlAnalyses(url.get_secret_value() if url else sqlite_url(self._config.data / DATABASE))
        self._stack.callback(store.close)

        async def find(name: str) -> Instrument:
            return await self.market.instrument(*name.split(":", 1))

        async def there(instrument: Instrument, interval_s: int) -> bool:
            return await self.market.stored.summary(SeriesKey(instrument.name, Of.CANDLES, interval_s)) is not None

        return Analyst(
            store,
            material(self.market, self._world.clock),
            find,
            self._world.clock,
            self.telemetry,
            there=there,
            relay=relay,
            indicate=partial(indicators, make=_lines(config)),
            reasoning=config.reasoning,
            output_tokens_max=config.output_tokens_max,
            workers=config.workers,
            queue_max=config.queue_max,
        )

    def _relay(self) -> Relay | None:
        config = self._config.llm
        if config.base_url is None or config.model is None:
            return None
        # A model may think for minutes before its first byte: a client of its own, with patience.
        http = HttpClient(config.timeout_s, body_bytes_max=ANSWER_BYTES_MAX)
        self._stack.push_async_callback(http.close)
        return Relay(
            UPSTREAMS[config.provider](),
            config.base_url,
            config.api_key.get_secret_value() if config.api_key else None,
            model=config.model,
            provider=config.provider,
            http=http,
            clock=self._world.clock,
            chance=random.Random(),  # noqa: S311 - jitter is no secret
            telemetry=self.telemetry,
            timeout_s=config.timeout_s,
        )

    async def _made_keys(self) -> Keys:
        store, secret = key_store(self._config)
        self._stack.callback(store.close)
        most = self._config.accounts.keys_max
        keys = Keys(store, secret, self._world.clock, self.telemetry, of_account_max=most)
        self._stack.push_async_callback(keys.close)
        await keys.load()
        return keys

    def _made_accounts(self) -> Accounts:
        store, secret = account_store(self._config)
        self._stack.callback(store.close)
        passwords = Passwords()
        self._stack.callback(passwords.close)
        tokens = LoginTokens(secret, self._world.clock, self._config.accounts.token_s)
        return Accounts(store, passwords, tokens, self._world.clock, self.telemetry, self._config.accounts)

    def _books(self) -> tuple[Ledger, UsageLog, SqlUsage]:
        clock = self._world.clock
        store = ledger_store(self._config)
        self._stack.callback(store.close)
        usage = SqlUsage(ledger_url(self._config))
        self._stack.callback(usage.close)
        ledger = Ledger(store, clock, self.telemetry)
        self._stack.push_async_callback(ledger.close)
        return ledger, UsageLog(usage, clock, self.telemetry, self._config.models.usage_kept_s), usage

    async def _demo_accounts(self) -> None:
        """Accounts with money and plenty of all that is traded, and a key of each for this run."""
        for email in DEMO_EMAILS:
            account = await self._own_account(email)
            self._shown_keys.append(await self._own_key(account, DEMO_KEY))
            postings = (Posting(ISSUANCE, KAI.name, -DEMO_MICROS), Posting(account.id, KAI.name, DEMO_MICROS))
            await self.ledger.transfer(f"demo/{account.id}", postings, "for the demo")
            await furnish(self.gateway, [account.id], self.gateway.listings)

    async def _own_account(self, email: str) -> Account:
        try:
            return await self.accounts.find(email)
        except Unknown:
            # Nobody logs in as it: it is used by its key.
            return await self.accounts.create(email, secrets.token_hex(16))

    async def _own_key(self, account: Account, name: str) -> str:
        """A key for this run. The text of the last run's is not kept, so it is of no more use."""
        for old in await self.keys.of(account.id):
            if old.name == name and old.revoked_ns is None:
                await self.keys.revoke(old.id)
        _, text = await self.keys.create(name, account=account.id)
        return text

    async def _trade(self) -> None:
        """Makers and takers of ours, each with an account, trade through the gRPC API like anybody else."""
        clock, chance = self._world.clock, random.Random(self._config.seed)  # noqa: S311 - not a secret
        bots = [await self._trader(email) for email in TRADER_EMAILS]
        anchor = self._config.exchange.anchor
        worth: Worth = Walk(chance, clock) if anchor is None else Anchor(self.market, anchor, clock)
        await Traders(bots[:MAKERS], bots[MAKERS:], worth, clock=clock, chance=chance, telemetry=self.telemetry).run()

    async def _trader(self, email: str) -> Api:
        account = await self._own_account(email)
        await furnish(self.gateway, [account.id], self.gateway.listings)
        if self._config.tls_certificate is not None:
            # A client of ours would not know whom to trust.
            return Direct(self.gateway, account.id)
        return Client(self._grpc_at, await self._own_key(account, TRADER_KEY))

    def _routes(self) -> Mapping[str, Route]:
        """The way to the model of each alias: its upstreams in their order, else the built-in narrator."""
        config, clock = self._config.models, self._world.clock
        upstreams = config.upstreams or _upstream_of(self._config.llm)
        lines: dict[str, Line] = {}
        for name, upstream in upstreams.items():
            http = HttpClient(upstream.idle_s, body_bytes_max=STREAM_BYTES_MAX, connections_max=config.calls_max)
            self._stack.push_async_callback(http.close)
            lines[name] = Line(name, upstream, UPSTREAMS[upstream.provider](), http, clock, self.telemetry)
        builtin = Builtin(
            self._coin, material(self.market, clock), indicate=partial(indicators, make=_lines(self._config.llm))
        )
        chance = random.Random()  # noqa: S311 - jitter is no secret
        routes: dict[str, Route] = {}
        for name, alias in config.aliases.items():
            chosen = [lines[each] for each in alias.upstreams or lines]
            routes[name] = Routed(chosen, clock, chance, model=alias.model) if chosen else builtin
        for line in lines.values():
            self._spawn(f"probe of {line.name}", line.probe())
        return routes

    async def _coin(self, coin: str) -> Instrument | None:
        """The instrument that a coin means to callers of agent-k."""
        try:
            venue = self._config.agentk.venue
            return Coins(venue, await self.market.instruments(venue)).find(coin)
        except (Unknown, Unavailable):
            return None

    def _billing(self) -> Billing:
        store = SqlBilling(ledger_url(self._config))
        self._stack.callback(store.close)
        freeze = partial(self.accounts.set_tier, tier=FROZEN)
        return billing(self._config, self.ledger, store, self._world.http, freeze, self._world.clock, self.telemetry)

    def _news(self, relay: Relay | None) -> News | None:
        config = self._config.news
        if not config.on:
            return None
        if config.enrich == "model" and relay is None:
            raise BadConfig('news.enrich = "model" needs llm.base_url')
        http = HttpClient(body_bytes_max=config.feed_bytes_max)
        self._stack.push_async_callback(http.close)
        url = self._config.store.url
        news = News(
            places(config, self._config.sources),
            store=SqlNews(url.get_secret_value() if url else sqlite_url(self._config.data / DATABASE)),
            http=http,
            clock=self._world.clock,
            chance=random.Random(),  # noqa: S311 - jitter is no secret
            telemetry=self.telemetry,
            poll_s=config.poll_s,
            articles_max=config.articles_max,
            enricher=Enricher(relay, self.telemetry, reasoning=self._config.llm.reasoning)
            if relay is not None and config.enrich == "model"
            else None,
            tokens_a_day_max=config.tokens_a_day_max,
        )
        self._stack.push_async_callback(news.close)
        return news

    def _feed(self, series: SqlSeries) -> Feed:
        config = self._config
        return Feed(
            accesses(config),
            bus=self.bus,
            clock=self._world.clock,
            http=self._world.http,
            sockets=self._world.sockets,
            telemetry=self.telemetry,
            # Only jitter: it must differ between servers that start together.
            chance=random.Random(),  # noqa: S311 - not a secret
            numbers=feed_numbers(config),
            resume=self._last_trade(series),
        )

    def _last_trade(self, series: SqlSeries) -> Callable[[str], tuple[int | str | None, int] | None]:
        return last_trade(
            series,
            lambda key: self.market.coverage(key),  # noqa: PLW0108 - the market is made after what it asks
            self._world.clock,
            back_s=self._config.feed.resume_s,
        )

    async def _exchange(self) -> tuple[OrderGateway, Sequencer, SqlExchange]:
        config, clock = self._config.exchange, self._world.clock
        store = SqlExchange(ledger_url(self._config))
        self._stack.callback(store.close)
        inbox = SqlInbox(ledger_url(self._config))
        self._stack.callback(inbox.close)
        sequencer = Sequencer(store, clock, self.telemetry, queue_max=config.queue_max, batch_max=config.batch_max)
        self._stack.push_async_callback(sequencer.close)
        gateway = OrderGateway(
            sequencer,
            store,
            clock,
            self.telemetry,
            lambda: time_ordered(clock.now_ns(), secrets.token_bytes),
            open_orders_max=config.open_orders_max,
            bulk_max=self._config.lykke.bulk_max,
        )
        await gateway.start()
        if config.listings is not None:
            await gateway.relist(listings_file.read(config.listings))
        elif self._world.simulator is not None:
            await gateway.relist(listings_file.demo())
        self._spawn("exchange", gateway.run(inbox))
        return gateway, sequencer, store

    async def _serve(self) -> None:
        config = self._config
        doors = Doors(
            clock=self._world.clock,
            keys=self.keys,
            market=self.market,
            bus=self.bus,
            follow=self.market.follow,
            admission=Admission(
                self._world.clock,
                requests_per_s=config.limits.requests_per_s,
                burst=config.limits.requests_burst,
                sockets_max=config.limits.sockets_max,
                sockets_per_address_max=config.limits.sockets_per_address_max,
                loopback=config.limits.loopback,
            ),
            push=Push(
                self.telemetry,
                bytes_max=config.limits.socket_buffer_bytes_max,
                frames_max=config.limits.socket_queue_max,
            ),
            telemetry=self.telemetry,
            catalogues=self._catalogues(),
            exchanges={
                **{name: make().exchanges for name, make in VENUES.items()},
                interest_files.VENUE: interest_files.EXCHANGES,
                OWN_VENUE: OWN_EXCHANGES,
            },
            tasks=self.tasks,
            bare_venue=config.hyperoru.venue,
            klines_locked=config.hyperoru.locked,
            takashi_locked=config.takashi.locked,
            trades_kept_s=config.store.trades_kept_s,
            analyst=self.analyst,
            accounts=self.accounts,
            callers=Callers(self.keys, self.accounts, config.accounts.tiers, config.accounts.tier),
            limits=self.limits,
            ledger=self.ledger,
            usage=self.usage,
            billing=self.billing,
            models=self.models,
            news=self.news,
            tokens=self.tokens,
            agentk=config.agentk,
            gateway=self.gateway,
            lykke=config.lykke,
            points_shape=config.kiyotaka.shape,
            idle_s=config.kiyotaka.idle_s,
            large_trade_usd=Decimal(str(config.takashi.large_trade_usd)),
            large_trades_usd_default=Decimal(str(config.takashi.large_trades_usd_default)),
            liquidations_usd_default=Decimal(str(config.takashi.liquidations_usd_default)),
        )
        dialects = [make(doors) for make in DIALECTS.values()]
        app = application(
            doors,
            dialects,
            cors_origins=config.takashi.cors_origins,
            keyed_origins={
                "kiyotaka": config.kiyotaka.cors_origins,
                "agentk": config.agentk.cors_origins,
                "lykke": config.lykke.cors_origins,
            },
            checks={"store": self._store_well, "venues": self._venues_well, "server": lambda: self._failed},
            body_bytes_max=config.limits.body_bytes_max,
        )
        web = HttpServer(app, *address(config.http), trusted_proxies=config.limits.trusted_proxies)
        rpc = RpcServer(
            [service for dialect in dialects for service in dialect.services()], *address(config.grpc), tls=_tls(config)
        )
        self._http_at = await self._bound("http", config.http, web.start)
        self._stack.push_async_callback(web.stop)
        self._grpc_at = await self._bound("grpc", config.grpc, rpc.start)
        self._stack.push_async_callback(rpc.stop)

    async def _bound(self, name: str, wanted: str, start: Callable[[], Awaitable[str]]) -> str:
        try:
            return await start()
        except OSError as e:
            why = e.strerror or str(e)
            raise BadConfig(f"cannot listen on {wanted}: {why}; name another with --{name} HOST:PORT") from e

    def _catalogues(self) -> Mapping[str, Catalogue]:
        key = self._config.coinmarketcap_api_key
        if key is None:
            return {}
        url = self._config.takashi.coinmarketcap_url
        return {"coinmarketcap": CoinMarketCap(self._world.http, url, key.get_secret_value())}

    def _drops(self, source: str) -> Drops:
        return Drops(
            source,
            market=self.market,
            building=self.building,
            bus=self.bus,
            clock=self._world.clock,
            http=self._world.http,
            telemetry=self.telemetry,
            poll_s=self._config.cme.poll_s,
        )

    def _monitor(self) -> Monitor:
        spikes = self._config.spikes

        async def newest(instrument: Instrument, interval_s: int, limit: int) -> Any:
            return (await self.market.candles(instrument, interval_s, limit=limit)).rows

        return Monitor(
            outside=self.feed,
            bus=self.bus,
            clock=self._world.clock,
            candles=newest,
            venue=spikes.venue,
            instruments_max=spikes.universe,
            delay_s=spikes.delay_s,
            thresholds=(
                Threshold(300, spikes.z_5m, spikes.open_interest_usd_min_5m, spikes.volume_usd_min_5m),
                Threshold(900, spikes.z_15m, spikes.open_interest_usd_min_15m, spikes.volume_usd_min_15m),
                Threshold(3_600, spikes.z_1h, spikes.open_interest_usd_min_1h, spikes.volume_usd_min_1h),
            ),
        )

    # -- following

    async def _follow_configured(self) -> None:
        """Follow what the settings name, as soon as each venue's listing is known."""
        async with asyncio.TaskGroup() as tasks:
            for name, venue in self._config.venues.items():
                if venue.on:
                    tasks.create_task(self._follow_venue(name))

    async def _follow_venue(self, name: str) -> None:
        venue = self._config.venues[name]
        for instrument, feeds in _configured(name, venue, await self._listing(name), self.feed):
            self.market.follow(instrument, feeds)
        asked = [(words.Query.OPTION_INTEREST, each) for each in venue.underlyings]
        for query, of in [*asked, *((words.Query.POSITIONS, each) for each in venue.holders)]:
            self.feed.follow_asked(name, query, of)

    async def _listing(self, name: str) -> Mapping[str, Instrument]:
        wait_s = self._config.feed.backoff_s_min
        while True:
            try:
                return await self.market.instruments(name)
            except Unavailable as e:
                # The feed has said so already.
                log.debug("no listing yet", venue=name, error=e.text, retry_s=wait_s)
            await self._world.clock.sleep(wait_s)
            wait_s = min(wait_s * 2, self._config.feed.backoff_s_max)

    async def _made_ready(self, instrument: Instrument) -> None:
        """What live candles are folded from, and the last 24 hours, fetched once for whoever begins to follow."""
        self.building.follow(instrument)
        wait_s = WARM_AGAIN_S
        for _ in range(WARM_TRIES_MAX):
            async with self._warming:
                if await self._warm.warm(instrument):
                    break
            await self._world.clock.sleep(wait_s)
            wait_s *= 2
        async with self._warming:
            try:
                day = await self.market.candles(instrument, 60, limit=1_440)
            except Refusal as e:
                log.info("24 hours unknown", instrument=instrument.name, error=e.text)
                return
            if day.rows and not day.missing:
                self.building.seed_ticker(day.rows, day.rows[0].open_ns)

    async def _heard(self) -> None:
        """Return when every venue that is on was heard, or after a while: a venue that is down must not stop a start."""
        waited_s = 0.0
        while waited_s < READY_S_MAX and self.silent():
            await self._world.clock.sleep(0.05)
            waited_s += 0.05

    # -- running

    def _trades(self) -> bool:
        """Whether makers and takers of ours trade on our exchange."""
        named = self._config.exchange
        return named.makers or (self._world.simulator is not None and "makers" not in named.model_fields_set)

    def _on(self, venue: str) -> bool:
        named = self._config.venues.get(venue)
        return named is not None and named.on

    def _store_well(self) -> str | None:
        backlog = self.market.writer.backlog
        return None if backlog < self._config.store.backlog_max else f"{backlog} rows wait to be written"

    def _venues_well(self) -> str | None:
        states = self.feed.venues()
        return None if not states or any(state.alive for state in states.values()) else "no venue answers"

    def _spawn(self, name: str, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._failed = f"{task.get_name()} failed"
            log.error("a part failed", part=task.get_name(), exc_info=task.exception())

    async def _end_tasks(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def record(world: Outside, venue: str, folder: Path, told: Callable[[Recorder], None], every_s: float) -> None:
    """Write what `venue` sends into `folder` until cancelled: all feeds of its configured instruments, and its listing.

    `told` hears how it goes every `every_s`, and how it ended. Raises UnknownVenue, Unavailable; OSError where the disk
    does not take it.
    """
    access = accesses(world.config).get(venue)
    if access is None:
        raise UnknownVenue(f"no venue {venue!r} is on; there are {', '.join(sorted(accesses(world.config)))}")
    recorder = Recorder(venue, folder, world.clock)
    feed = Feed(
        {venue: access},
        bus=Bus(),
        clock=world.clock,
        http=world.http,
        sockets=world.sockets,
        telemetry=Telemetry(),
        chance=random.Random(),  # noqa: S311 - jitter is no secret
        numbers=feed_numbers(world.config),
        taps={venue: recorder},
    )

    async def tell() -> None:
        while True:
            await world.clock.sleep(every_s)
            told(recorder)

    try:
        send = partial(feed.send, venue)
        listing = {each.symbol: each for each in await record_listing(recorder, access.venue, send)}
        await feed.start()
        for instrument, feeds in _configured(venue, world.config.venues[venue], listing, feed):
            feed.follow(instrument, feeds)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(recorder.run())
            tasks.create_task(tell())
    finally:
        await feed.stop()
        await recorder.close()
        # What was written last is told too.
        told(recorder)


def key_store(config: Config) -> tuple[SqlKeys, bytes]:
    """Where keys are kept, and their pepper: also beside a server that runs. Raises Unavailable."""
    secret = config.keys_pepper
    url = config.store.url
    store = SqlKeys(url.get_secret_value() if url else sqlite_url(private_file(config.data / ACCOUNTS)))
    try:
        return store, secret.get_secret_value().encode() if secret else pepper(config.data)
    except Unavailable:
        store.close()
        raise


def account_store(config: Config) -> tuple[SqlAccounts, bytes]:
    """Where accounts are kept, and what login tokens are signed with: also beside a server that runs. Raises Unavailable."""
    secret, url = config.accounts.token_secret, config.store.url
    store = SqlAccounts(url.get_secret_value() if url else sqlite_url(private_file(config.data / ACCOUNTS)))
    try:
        return store, secret.get_secret_value().encode() if secret else token_secret(config.data)
    except Unavailable:
        store.close()
        raise


def ledger_store(config: Config) -> SqlLedger:
    """The books: also beside a server that runs. Raises Unavailable."""
    return SqlLedger(ledger_url(config))


def ledger_url(config: Config) -> URL | str:
    """Where the books are kept, and what is written beside them: also beside a server that runs. Raises Unavailable."""
    url = config.store.url
    return url.get_secret_value() if url else sqlite_url(private_file(config.data / LEDGER))


def billing(
    config: Config, ledger: Ledger, store: BillingStore, http: Http, freeze: Freeze, clock: Clock, telemetry: Telemetry
) -> Billing:
    """What sells KAI by card, as the settings say. `freeze` is asked to freeze an account."""
    numbers = config.stripe
    secret_key, webhook_secret = (
        None if secret is None else secret.get_secret_value() for secret in (numbers.secret_key, numbers.webhook_secret)
    )
    return Billing(
        ledger,
        store,
        Stripe(secret_key, webhook_secret, numbers.api_base, http, clock),
        freeze,
        clock,
        telemetry,
        kai_usd=config.models.kai_usd,
        redirect_hosts=numbers.redirect_hosts,
        reconcile_s=numbers.reconcile_s,
    )


def backfill(world: Outside, market: Market, outside: Venues, series: SqlSeries, telemetry: Telemetry) -> Tasks:
    """What works on backfill tasks. Raises BadConfig for an archive of a venue that has none."""
    numbers = world.config.backfill
    return Tasks(
        market=market,
        outside=outside,
        store=series.tasks,
        clock=world.clock,
        chance=random.Random(),  # noqa: S311 - jitter is no secret
        telemetry=telemetry,
        archive=Archives(
            archive_addresses(world.config), ARCHIVES, http=world.http, clock=world.clock, telemetry=telemetry
        ),
        numbers=TaskNumbers(
            workers=numbers.workers,
            workers_a_venue=numbers.workers_a_venue,
            active_max=numbers.active_max,
            candles_max=numbers.candles_max,
            repair_s=numbers.repair_s,
            kept_s=numbers.kept_s,
        ),
    )


def accesses(config: Config) -> dict[str, Access]:
    """The venues that are on, with their addresses. Raises BadConfig for a venue or endpoint there is none of."""
    unknown = sorted(set(config.venues) - set(VENUES))
    if unknown:
        raise BadConfig(f"venues.{unknown[0]}: no such venue; there are {', '.join(sorted(VENUES))}")
    made: dict[str, Access] = {}
    for name, named in config.venues.items():
        venue = VENUES[name]()
        strange = sorted(set(named.sockets) - set(venue.sockets))
        if strange:
            raise BadConfig(
                f"venues.{name}.sockets.{strange[0]}: no such endpoint; there are {', '.join(sorted(venue.sockets))}"
            )
        if named.on:
            made[name] = Access(venue, named.rest or venue.rest, {**venue.sockets, **named.sockets})
    return made


def check_sources(config: Config) -> None:
    """Raises BadConfig for a catalogue there is none of."""
    there = {*TOKEN_SOURCES, *(name for name, make in NEWS_SOURCES.items() if make(0).url is not None)}
    strange = sorted(set(config.sources) - there)
    if strange:
        raise BadConfig(f"sources.{strange[0]}: no such source; there are {', '.join(sorted(there))}")


def archive_addresses(config: Config) -> dict[str, str]:
    """Where the archives of the venues that are on are; without those not to be used. Raises BadConfig where there is none."""
    strange = next((name for name, named in config.venues.items() if named.archive and name not in ARCHIVES), None)
    if strange is not None:
        raise BadConfig(f"venues.{strange}.archive: it has none; there are those of {', '.join(sorted(ARCHIVES))}")
    named = {name: config.venues[name] for name in ARCHIVES if name in config.venues and config.venues[name].on}
    addresses = {name: ARCHIVES[name].address if at.archive is None else at.archive for name, at in named.items()}
    return {name: address for name, address in addresses.items() if address}


def effective(config: Config) -> dict[str, Any]:
    """The settings in force as plain values, the venues' own addresses filled in, secrets masked. Raises BadConfig."""
    accesses(config)
    check_sources(config)
    archives = archive_addresses(config)
    shown: dict[str, Any] = config.model_dump(mode="json")
    for name, named in shown["venues"].items():
        venue = VENUES[name]()
        named["rest"] = named["rest"] or venue.rest
        named["sockets"] = {**venue.sockets, **named["sockets"]}
        named["archive"] = archives.get(name, named["archive"])
    return shown


def _configured(
    name: str, venue: VenueConfig, listing: Mapping[str, Instrument], feed: Feed
) -> Iterator[tuple[Instrument, frozenset[words.Feed]]]:
    """What the settings say is followed of a venue; liquidations of all instruments at once where they say so."""
    feeds = feed.feeds(name) - (frozenset() if venue.depth else {words.Feed.DEPTH})
    if words.Feed.LIQUIDATIONS in feeds and venue.liquidations == "all":
        feeds -= {words.Feed.LIQUIDATIONS}
        yield from _all_liquidations(name, listing, feed)
    for symbol in venue.instruments:
        instrument = listing.get(symbol)
        if instrument is None:
            log.warning("not listed", venue=name, symbol=symbol)
        elif instrument.kind is Kind.SPOT:
            # A spot pair has no funding, open interest, mark price or liquidations.
            yield instrument, feeds & SPOT_FEEDS
        else:
            yield instrument, feeds


def _all_liquidations(
    name: str, listing: Mapping[str, Instrument], feed: Feed
) -> Iterator[tuple[Instrument, frozenset[words.Feed]]]:
    """One stream of all where the venue has it, else a stream for each derivative it lists."""
    only = frozenset({words.Feed.LIQUIDATIONS})
    try:
        feed.follow_all(name, words.Feed.LIQUIDATIONS)
    except Unsupported:
        yield from ((each, only) for each in listing.values() if each.trading and each.kind is not Kind.SPOT)


def feed_numbers(config: Config) -> Numbers:
    feed = config.feed
    return Numbers(
        session=SessionTiming(
            backoff_s_min=feed.backoff_s_min, backoff_s_max=feed.backoff_s_max, renewal_s=feed.renew_before_s
        ),
        backfill=RepairTiming(retry_s_max=feed.backoff_s_max),
        polls=PollTiming(
            open_interest_s=feed.poll_s,
            funding_s=feed.poll_s,
            option_interest_s=feed.option_interest_s,
            positions_s=feed.positions_s,
        ),
        listing_refresh_s=feed.listing_s,
        resume_s_max=feed.resume_s,
    )


def market_numbers(config: Config) -> market_words.Numbers:
    store, market = config.store, config.market
    return market_words.Numbers(
        flush_s=store.flush_s,
        batch_max=store.batch_max,
        backlog_max=store.backlog_max,
        trades_kept_s=store.trades_kept_s,
        candles_kept=market.candles_kept,
        candles_kept_in_all=market.candles_kept_in_all,
        candle_fresh_s=market.fresh_s,
        grow_s=market.grow_s,
        block_rows_max=market.block_rows_kept,
        trades_asked_s=market.trades_asked_s,
    )


def material(market: Market, clock: Clock) -> Gather:
    """What an analysis rests on, as the market knows it now; what it does not know, or no venue serves, is None."""

    async def gather(instrument: Instrument, interval_s: int, candles: int) -> Material:
        # One more, as the last one may still grow.
        told = await market.candles(instrument, interval_s, limit=candles + 1)
        closed = [row for row in told.rows if row.closed][-candles:]
        known = Material(instrument=instrument, interval_s=interval_s, now_ns=clock.now_ns(), candles=closed)
        if not closed:
            return known
        start_ns, end_ns = closed[0].open_ns, bounds_of(closed[-1].open_ns, interval_s)[1]
        ticker, interest, funding, before = await asyncio.gather(
            _known(market.ticker(instrument)),
            _known(market.open_interest(instrument)),
            _known(market.funding(instrument)),
            _known(market.open_interest_bars(instrument, interval_s, limit=1, start_ns=start_ns)),
        )
        longs, shorts, bought, sold = await asyncio.gather(
            # The order that closes a long sells.
            _liquidated(market, instrument, interval_s, Side.SELL, start_ns, end_ns),
            _liquidated(market, instrument, interval_s, Side.BUY, start_ns, end_ns),
            _taken(market, instrument, interval_s, Side.BUY, start_ns, end_ns, known.now_ns),
            _taken(market, instrument, interval_s, Side.SELL, start_ns, end_ns, known.now_ns),
        )
        first = before.rows[0] if before is not None and before.rows else None
        return msgspec.structs.replace(
            known,
            missing=[(max(low, start_ns), high) for low, high in told.missing if high > start_ns],
            price=told.rows[-1].close,
            change=ticker.close / ticker.open - 1 if ticker is not None and ticker.open else None,
            volume=None if ticker is None else ticker.volume,
            quote_volume=None if ticker is None else ticker.quote_volume,
            open_interest=None if interest is None else interest.size,
            open_interest_usd=None if interest is None else interest.value,
            open_interest_before=first.open if isinstance(first, InterestBar) and first.open_ns == start_ns else None,
            funding_rate=None if funding is None else funding.rate,
            funding_ns=None if funding is None else funding.funding_ns,
            funding_interval_s=None if funding is None else funding.interval_s,
            bought=bought,
            sold=sold,
            liquidated_longs=longs,
            liquidated_shorts=shorts,
        )

    return gather


async def _known(asked: Awaitable[_T]) -> _T | None:
    try:
        return await asked
    except Refusal:
        return None


async def _liquidated(
    market: Market, instrument: Instrument, interval_s: int, side: Side, start_ns: int, end_ns: int
) -> Decimal | None:
    """Base coins closed by force; None where part of the stretch was not listened to."""
    key = SeriesKey(instrument.name, Of.LIQUIDATION_BARS, interval_s, side)
    if not market.coverage(key).whole(start_ns, end_ns):
        return None
    told = await _known(
        market.liquidation_bars(instrument, interval_s, limit=ROWS_MAX, side=side, start_ns=start_ns, end_ns=end_ns)
    )
    if told is None:
        return None
    return sum((row.volume for row in told.rows if isinstance(row, LiquidationBar)), Decimal(0))


async def _taken(
    market: Market, instrument: Instrument, interval_s: int, side: Side, start_ns: int, end_ns: int, now_ns: int
) -> Decimal | None:
    """Base coins that aggressors of that side took; None where we did not hear all of it: no venue is asked for it."""
    key = SeriesKey(instrument.name, Of.CANDLES, interval_s, side)
    if not market.whole_to(key, start_ns, end_ns, now_ns):
        return None
    told = await _known(
        market.candles(instrument, interval_s, limit=ROWS_MAX, side=side, start_ns=start_ns, end_ns=end_ns)
    )
    return None if told is None else sum((row.volume for row in told.rows), Decimal(0))


def _lines(config: LlmConfig) -> Callable[[Sequence[Candle]], Lines]:
    if config.indicators == "builtin":
        return lines
    try:
        from openoutcry.aggregates import talib_indicators
    except ImportError as e:
        raise BadConfig('llm.indicators = "talib" needs the extra: pip install "openoutcry[indicators]"') from e
    return talib_indicators.lines


def _upstream_of(llm: LlmConfig) -> Mapping[str, UpstreamConfig]:
    """Where no upstream is named for callers, the model that analyses candles answers them too."""
    if llm.base_url is None or llm.model is None:
        return {}
    reasoning: Literal["reasoning_effort", "enable_thinking"] = (
        "reasoning_effort" if llm.reasoning else "enable_thinking"
    )
    return {
        llm.provider: UpstreamConfig(
            base_url=llm.base_url, api_key=llm.api_key, model=llm.model, provider=llm.provider, reasoning=reasoning
        )
    }


def _tls(config: Config) -> tuple[bytes, bytes] | None:
    if config.tls_certificate is None or config.tls_key is None:
        return None
    try:
        return config.tls_key.read_bytes(), config.tls_certificate.read_bytes()
    except OSError as e:
        raise BadConfig(f"tls_certificate or tls_key cannot be read: {e.strerror}") from e


def _mark_seed(folder: Path, seed: int) -> None:
    """A folder belongs to one world: two of them in one store would be neither."""
    mark = folder / SEED_FILE
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = mark.read_text("ascii").strip() if mark.exists() else ""
        if found and found != str(seed):
            raise BadConfig(f"{folder} holds the world of seed {found}; use --seed {found}, or another --data folder")
        mark.write_text(f"{seed}\n", "ascii")
    except (OSError, UnicodeDecodeError) as e:
        raise BadConfig(f"the data folder {folder} cannot be used: {e}") from e
