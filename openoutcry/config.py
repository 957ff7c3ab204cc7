"""Config: one frozen tree of settings, read once.

Later sources win: the defaults here, then a TOML file, then `OPENOUTCRY_*` in the environment (`__` between levels:
`OPENOUTCRY_STORE__FLUSH_S=1`), then flags of the command line. `openoutcry config show` prints what came out;
docs/settings.md is made from the descriptions below, and a test holds the two together.
"""

import tomllib
from collections.abc import Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args, get_origin

from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticUndefined
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from openoutcry.errors import Refusal


class BadConfig(Refusal):
    """A setting is unknown or has a wrong value; the text names each, and where it came from."""

    code = "bad_config"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LogConfig(_Part):
    """What is said while running, on standard error."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severity that is printed.")
    json_lines: bool = Field(
        default=False, description="One JSON object a line; also when standard error is no terminal and this is set."
    )


class VenueConfig(_Part):
    """One outside exchange."""

    on: bool = Field(default=True, description="Whether to listen to it and ask it.")
    rest: str | None = Field(None, description="Address of its REST side; unset: the venue's own.")
    sockets: dict[str, str] = Field(
        default_factory=dict, description="Address of each WebSocket endpoint; those not named: the venue's own."
    )
    archive: str | None = Field(
        None,
        description="Address of its public archive of candle files, where it has one; unset: the venue's own; empty: not used.",
    )
    instruments: tuple[str, ...] = Field(
        (), description="Symbols, in the venue's spelling, that are followed from the start. Others on demand."
    )
    depth: bool = Field(default=False, description="Also keep whole depth of the followed instruments.")
    underlyings: tuple[str, ...] = Field(
        (),
        description="Coins whose options are asked for their open interest, all at once, where the venue has options.",
    )
    holders: tuple[str, ...] = Field(
        (), description="Addresses whose positions are watched for liquidation levels (Hyperliquid)."
    )
    liquidations: Literal["all", "followed"] = Field(
        "all", description="Listen to liquidations of all instruments of the venue, or of the followed ones only."
    )


class FeedConfig(_Part):
    """How venues are listened to."""

    backoff_s_min: float = Field(0.5, gt=0, description="First wait before a lost connection is opened again.")
    backoff_s_max: float = Field(60.0, gt=0, description="Longest wait between two tries; waits double, with jitter.")
    renew_before_s: float = Field(
        600.0, ge=0, description="A connection is replaced so long before the venue would cut it, overlapping."
    )
    poll_s: float = Field(
        15.0, gt=0, description="Pace of questions for what a venue does not stream (Binance open interest)."
    )
    option_interest_s: float = Field(60.0, gt=0, description="Pace of questions for the open interest of all options.")
    positions_s: float = Field(60.0, gt=0, description="Pace of questions for the positions of watched addresses.")
    listing_s: float = Field(3_600.0, gt=0, description="How often the venues' listings are read again.")
    resume_s: float = Field(
        3_600.0, ge=0, description="After a start, trades are fetched back to the last stored one, at most so far."
    )


class CandlesConfig(_Part):
    """How candles are built."""

    grace_s: float = Field(1.0, ge=0, description="A candle closes when its venue's event time is so far past its end.")
    minutes_kept: int = Field(
        60, ge=10, description="Closed minutes an instrument keeps for late trades; older ones are fetched instead."
    )


class StoreConfig(_Part):
    """Where series are kept."""

    url: SecretStr | None = Field(
        None,
        description="Database: unset is SQLite in the data folder; `postgresql+psycopg://…` is PostgreSQL.",
    )
    flush_s: float = Field(0.5, gt=0, description="Live data is written in batches, at least this often.")
    batch_max: int = Field(5_000, gt=0, description="Most events in one transaction.")
    backlog_max: int = Field(
        200_000, gt=0, description="Most events that wait to be written; above, a hole is declared."
    )
    trades_kept_s: float = Field(86_400.0, ge=0, description="Raw trades are kept so long; series for ever.")


class MarketConfig(_Part):
    """How questions are answered."""

    candles_kept: int = Field(1_500, ge=100, description="Newest closed candles of a series that stay in memory.")
    candles_kept_in_all: int = Field(
        200_000, ge=1_000, description="Closed candles that stay in memory, all series together."
    )
    fresh_s: float = Field(
        1.0, ge=0, description="Age up to which a venue's answer is given again instead of asking anew."
    )
    grow_s: float = Field(
        1.0, gt=0, description="Who streams points is told of a bucket that grows at most this often."
    )
    block_rows_kept: int = Field(
        250_000,
        ge=10_000,
        description="Rows kept in memory as columns for answers of many points, all series together.",
    )
    trades_asked_s: float = Field(
        3_600.0, ge=0, description="A venue is asked for trades of so long a stretch at most to answer one question."
    )
    look_back_s: float = Field(
        86_400.0,
        ge=0,
        description="After a start, minutes missed since the last stored one are fetched, at most so far back.",
    )


class BackfillConfig(_Part):
    """Backfill tasks, and the repair of gaps."""

    workers: int = Field(4, gt=0, le=64, description="Tasks that run at the same time.")
    workers_a_venue: int = Field(2, gt=0, le=64, description="Of those, on one venue.")
    active_max: int = Field(1_000, gt=0, description="Tasks that may wait or run; more are refused.")
    candles_max: int = Field(5_000_000, gt=0, description="Candles that one task may ask for.")
    repair_s: float = Field(300.0, gt=0, description="How often gaps between stored candles are looked for and filled.")
    kept_s: float = Field(2_592_000.0, gt=0, description="Records of tasks that ended are kept so long.")


class SpikesConfig(_Part):
    """The open interest and volume spike detector of `/ws/oi-vol`."""

    on: bool = Field(default=True, description="Whether it runs.")
    venue: str = Field("binance_futures", description="The venue it watches.")
    universe: int = Field(
        80, gt=0, le=500, description="It watches so many instruments, those with the greatest turnover."
    )
    z_5m: float = Field(3.0, gt=0, description="z-score that alerts on 5-minute bars.")
    z_15m: float = Field(2.5, gt=0, description="z-score that alerts on 15-minute bars.")
    z_1h: float = Field(2.0, gt=0, description="z-score that alerts on hourly bars.")
    open_interest_usd_min_5m: float = Field(
        500_000.0, ge=0, description="Least open interest considered, 5-minute bars."
    )
    open_interest_usd_min_15m: float = Field(
        1_000_000.0, ge=0, description="Least open interest considered, 15-minute bars."
    )
    open_interest_usd_min_1h: float = Field(
        2_500_000.0, ge=0, description="Least open interest considered, hourly bars."
    )
    volume_usd_min_5m: float = Field(100_000.0, ge=0, description="Least volume of the bar considered, 5-minute bars.")
    volume_usd_min_15m: float = Field(
        250_000.0, ge=0, description="Least volume of the bar considered, 15-minute bars."
    )
    volume_usd_min_1h: float = Field(1_000_000.0, ge=0, description="Least volume of the bar considered, hourly bars.")
    delay_s: float = Field(20.0, ge=0, description="Wait after a bar's end, until the venue has published it.")


class CmeConfig(_Part):
    """Open interest of CME, from files (docs/cme.md)."""

    source: str | None = Field(None, description="A file, a folder of `*.csv`, or an http(s) address; unset: no CME.")
    poll_s: float = Field(300.0, gt=0, description="How often the source is looked at; it is read when it changed.")


class LimitsConfig(_Part):
    """What callers may do."""

    requests_per_s: float = Field(50.0, gt=0, description="Requests a second from one address.")
    requests_burst: int = Field(200, gt=0, description="Requests one address may send at once.")
    loopback: bool = Field(default=False, description="Whether the limits also hold for callers on this machine.")
    trusted_proxies: tuple[str, ...] = Field(
        (), description="Addresses of proxies before us, whose X-Forwarded-For says who is calling."
    )
    body_bytes_max: int = Field(1_048_576, gt=0, description="Largest request body.")
    sockets_max: int = Field(10_000, gt=0, description="Most open WebSockets.")
    sockets_per_address_max: int = Field(200, gt=0, description="Most open WebSockets from one address.")
    socket_buffer_bytes_max: int = Field(
        262_144, gt=0, description="A follower that has so much unread is slow: conflated, or closed."
    )
    socket_queue_max: int = Field(
        1_000, gt=0, description="Messages that wait for a slow follower before it is closed."
    )


class TakashiConfig(_Part):
    """The TAKASHI dialect."""

    large_trade_usd: float = Field(
        100_000.0, ge=0, description="Least value of a trade on the per-symbol large trade streams."
    )
    large_trades_usd_default: float = Field(
        100_000.0, ge=0, description="`min_value_usd` of `/ws/all/large_trades` where not given."
    )
    liquidations_usd_default: float = Field(
        5_000.0, ge=0, description="`min_value_usd` of `/ws/all/liquidations` where not given."
    )
    cors_origins: tuple[str, ...] = Field(
        ("http://localhost:3000", "http://localhost:5173"),
        description="Origins whose pages may call us from a browser.",
    )
    coinmarketcap_url: str = Field("https://pro-api.coinmarketcap.com", description="Address of CoinMarketCap.")
    locked: bool = Field(
        default=False, description="Whether its market data wants a key; without, it is open as its contract shows it."
    )


class LlmConfig(_Part):
    """The language model that analyses candles (docs/analysis.md)."""

    base_url: str | None = Field(
        None, description="Address of an OpenAI-compatible API, up to `/v1`; unset: the built-in rules, no model."
    )
    api_key: SecretStr | None = Field(None, description="Its key; unset: none is sent.")
    model: str | None = Field(None, description="The model's name there; needed with `llm.base_url`.")
    provider: Literal["openai"] = Field("openai", description="Which API it speaks.")
    timeout_s: float = Field(120.0, gt=0, description="A call with all its tries may take so long.")
    output_tokens_max: int = Field(4_000, ge=16, description="Most tokens of one answer.")
    reasoning: bool = Field(
        default=False, description="The model thinks first: it gets `max_completion_tokens` and no temperature."
    )
    indicators: Literal["builtin", "talib"] = Field(
        "builtin", description="Who computes the indicators; `talib` needs the extra `indicators`."
    )
    workers: int = Field(2, ge=1, le=32, description="Analyses done at once.")
    queue_max: int = Field(50, ge=1, description="Analyses that may wait; above, callers are told to come back.")

    @model_validator(mode="after")
    def _named(self) -> "LlmConfig":
        if self.base_url is not None and not self.base_url.startswith(("http://", "https://")):
            raise ValueError("base_url begins with http:// or https://")
        if self.base_url is not None and not self.model:
            raise ValueError("model is needed with base_url")
        return self


class TierConfig(_Part):
    """How much a key may use."""

    requests_per_min: int = Field(60, ge=1, description="Requests a minute.")
    tokens_per_min: int = Field(
        100_000, ge=0, description="Tokens of language models a minute; 0: none, whatever the balance."
    )


# What an account falls to whose payment was taken back.
FROZEN = "frozen"


def _tiers() -> dict[str, TierConfig]:
    return {"standard": TierConfig(), FROZEN: TierConfig(requests_per_min=10, tokens_per_min=0)}


class AccountsConfig(_Part):
    """Who may have an account, and what its keys may use (docs/agentk.md)."""

    sign_up: Literal["open", "invite", "off"] = Field(
        "open",
        description="Who may register over HTTP: everybody, whoever knows `accounts.invite_code`, nobody. The command line always may.",
    )
    invite_code: SecretStr | None = Field(None, min_length=8, description='What `sign_up = "invite"` asks for.')
    tier: str = Field("standard", description="Tier of new accounts.")
    tiers: dict[str, TierConfig] = Field(default_factory=_tiers)
    keys_max: int = Field(5, ge=1, le=100, description="Keys of one account that may be used at once.")
    accounts_max: int = Field(100_000, ge=1, description="Accounts; above, nobody can register.")
    login_limits: bool = Field(
        default=True, description="Whether tries to register and to log in are limited, by address and by account."
    )
    login_tries_per_min: int = Field(10, ge=1, description="Those tries a minute.")
    token_s: float = Field(86_400.0, gt=0, le=86_400, description="How long a login's token is good.")
    token_secret: SecretStr | None = Field(
        None,
        min_length=32,
        description="What those tokens are signed with; unset: the file `token-secret` in the data folder, made at first use.",
    )

    @model_validator(mode="after")
    def _whole(self) -> "AccountsConfig":
        if self.tier not in self.tiers:
            raise ValueError(f"tier: there is no tier {self.tier!r}; there are {', '.join(sorted(self.tiers))}")
        if self.sign_up == "invite" and self.invite_code is None:
            raise ValueError('sign_up = "invite" needs invite_code')
        return self

    @field_validator("tiers")
    @classmethod
    def _fill(cls, named: dict[str, TierConfig]) -> dict[str, TierConfig]:
        return {**_tiers(), **named}


class UpstreamConfig(_Part):
    """One provider of language models: any OpenAI-compatible address."""

    base_url: str = Field(description="Its address, up to `/v1`.", pattern="^https?://")
    api_key: SecretStr | None = Field(None, description="Its key; unset: none is sent.")
    model: str = Field(description="The model's name there.", min_length=1)
    provider: Literal["openai"] = Field("openai", description="Which API it speaks.")
    reasoning: Literal[
        "enable_thinking", "reasoning_effort", "think", "reasoning_enabled", "thinking_type", "no_think", "none"
    ] = Field(
        "enable_thinking",
        description="How it is told to think or not: vLLM, SGLang, llama.cpp; OpenAI; Ollama; OpenRouter; DeepSeek, z.ai; old Qwen templates; not at all.",
    )
    usage_stats: bool = Field(
        default=False, description="It counts tokens in every chunk when asked (`continuous_usage_stats` of vLLM)."
    )
    connect_s: float = Field(5.0, gt=0, description="Longest wait for a connection.")
    first_byte_s: float = Field(
        60.0, gt=0, description="Longest wait for the first byte of a streamed answer; a whole one has the whole time."
    )
    idle_s: float = Field(30.0, gt=0, description="Longest wait between two chunks of a streamed answer.")
    whole_s: float = Field(300.0, gt=0, description="Longest time of a call, all its tries together.")
    retries: int = Field(1, ge=0, le=5, description="Further tries, before the first byte only.")
    extra_body: dict[str, Any] = Field(default_factory=dict, description="Further fields of every request.")


class AliasConfig(_Part):
    """A name that callers use for a model."""

    upstreams: tuple[str, ...] = Field(
        (), description="Upstreams it is answered by, the next one where one fails; none: all, in their order."
    )
    model: str | None = Field(None, description="The model's name at its upstreams; unset: each upstream's own.")
    thinks: bool = Field(default=False, description="Whether it thinks first where a caller does not say.")
    about: str = Field("", description="What `/v1/models` says of it.")


def _aliases() -> dict[str, AliasConfig]:
    return {
        "kai-fast": AliasConfig(thinks=False, about="Answers at once, without thinking first."),
        "kai-smart": AliasConfig(thinks=True, about="Thinks first, then answers."),
    }


class ModelsConfig(_Part):
    """Language models that callers pay for (docs/agentk.md)."""

    upstreams: dict[str, UpstreamConfig] = Field(default_factory=dict)
    aliases: dict[str, AliasConfig] = Field(default_factory=_aliases)
    default: str = Field("kai-smart", description="The alias that is meant where none is named.")
    usd_per_1k_in: Decimal = Field(Decimal("0.0002"), ge=0, le=1_000, description="Price of 1,000 tokens read, in USD.")
    usd_per_1k_out: Decimal = Field(
        Decimal("0.0006"), ge=0, le=1_000, description="Price of 1,000 tokens written, in USD."
    )
    fee_multiplier: Decimal = Field(Decimal("1.1"), gt=0, le=1_000, description="What the price is multiplied by.")
    kai_usd: Decimal | None = Field(
        Decimal("0.01"),
        gt=0,
        le=1_000_000,
        description="What one KAI costs, in USD; empty: nothing is sold, calls get 503.",
    )
    output_tokens_default: int = Field(
        2_048, ge=16, le=8_192, description="Most tokens of an answer where the caller does not say."
    )
    calls_max: int = Field(256, ge=1, description="Calls at once; more get 429.")
    on_disconnect: Literal["cancel", "drain"] = Field(
        "cancel",
        description="When a caller leaves: stop the upstream, or read on (bounded), for upstreams that bill on anyway.",
    )
    answers_kept_s: float = Field(86_400.0, gt=0, description="Answers to an `Idempotency-Key` are kept so long.")
    answers_max: int = Field(100_000, ge=1, description="Such answers that are kept, all accounts together.")
    usage_kept_s: float = Field(7_776_000.0, gt=0, description="Rows of usage are kept so long, then only sums by day.")

    @field_validator("kai_usd", mode="before")
    @classmethod
    def _unset(cls, told: Any) -> Any:
        return None if told == "" else told  # TOML has no null

    @field_validator("aliases")
    @classmethod
    def _fill(cls, named: dict[str, AliasConfig]) -> dict[str, AliasConfig]:
        """An alias of ours that is only partly named keeps its ways."""
        ours = _aliases()
        kept = {name: ours[name].model_dump(exclude_unset=True) for name in ours}
        filled = {
            name: AliasConfig(**{**kept.get(name, {}), **given.model_dump(exclude_unset=True)})
            for name, given in named.items()
        }
        return {**ours, **filled}

    @model_validator(mode="after")
    def _whole(self) -> "ModelsConfig":
        if self.default not in self.aliases:
            raise ValueError(f"default: there is no alias {self.default!r}; there are {', '.join(self.aliases)}")
        for name, alias in self.aliases.items():
            strange = next((each for each in alias.upstreams if each not in self.upstreams), None)
            if strange is not None:
                raise ValueError(f"aliases.{name}.upstreams: there is no upstream {strange!r}")
        return self


class StripeConfig(_Part):
    """Cards, by Stripe's hosted checkout; needs the extra `stripe`."""

    secret_key: SecretStr | None = Field(None, description="Key of the API; unset: no checkout (503).")
    webhook_secret: SecretStr | None = Field(None, description="Secret of the webhook; unset: no webhook (503).")
    api_base: str = Field("https://api.stripe.com", pattern="^https?://", description="Address of Stripe's API.")
    redirect_hosts: tuple[str, ...] = Field(
        (), description="Hosts that `success_url` and `cancel_url` may name; none: any."
    )
    reconcile_s: float = Field(
        3_600.0, gt=0, description="How often paid sessions are looked for that no webhook told of."
    )


class SourceConfig(_Part):
    """One outside catalogue of tokens or news."""

    on: bool = Field(
        default=True, description="Whether it is asked; those that need a key are asked when they have it."
    )
    url: str | None = Field(None, pattern="^https?://", description="Its address; unset: its own.")
    api_key: SecretStr | None = Field(None, description="Its key, where it takes one.")


FEEDS = (
    "https://www.coindesk.com/arc/outboundfeeds/rss/",
    "https://cointelegraph.com/rss",
    "https://decrypt.co/feed",
    "https://www.theblock.co/rss.xml",
    "https://bitcoinmagazine.com/feed",
    "https://thedefiant.io/feed",
    "https://cryptoslate.com/feed/",
    "https://blockworks.co/feed",
)


class NewsConfig(_Part):
    """News: feeds that are read, and what is made of them."""

    on: bool = Field(default=True, description="Whether news are read.")
    feeds: tuple[str, ...] = Field(FEEDS, description="Addresses of RSS and Atom feeds.")
    poll_s: float = Field(300.0, gt=0, description="How often each is read.")
    feed_bytes_max: int = Field(5_242_880, gt=0, description="Largest feed.")
    articles_max: int = Field(20_000, ge=100, description="Articles that are kept, the newest.")
    enrich: Literal["rules", "model"] = Field(
        "rules", description="Who says what an article is about: rules, or the language model of `llm.base_url`."
    )
    tokens_a_day_max: int = Field(200_000, ge=0, description="Tokens a day that the model may use for it; then rules.")


class AgentkConfig(_Part):
    """The agent-k dialect."""

    venue: str = Field("binance", description="The venue whose candles `/v1/market` and `/v1/ws` give.")
    heartbeat_s: float = Field(30.0, gt=0, description="A WebSocket is pinged so often; three unanswered close it.")
    connections_a_key_max: int = Field(10, ge=1, description="Open WebSockets of one key.")
    channels_a_connection_max: int = Field(50, ge=1, le=1_000, description="Channels of one WebSocket.")
    cors_origins: tuple[str, ...] = Field(
        ("*",), description="Origins whose pages may call it from a browser; they bring a key of their own."
    )


class ExchangeConfig(_Part):
    """Our own exchange (docs/exchange.md)."""

    listings: Path | None = Field(
        None, description="TOML file of assets and pairs, read at a start; unset: those that were listed before."
    )
    queue_max: int = Field(50_000, ge=1, description="Commands that may wait; above, callers are told to come back.")
    batch_max: int = Field(1_000, ge=1, description="Most commands in one transaction.")
    open_orders_max: int = Field(5_000, ge=1, description="Resting orders of one wallet.")
    makers: bool = Field(
        default=False,
        description="Whether makers and takers of ours trade on it; in the demo they do unless it is named.",
    )
    anchor: str | None = Field(
        None, description="The venue whose live quotes they follow (`binance`); unset: prices walk by themselves."
    )


class LykkeConfig(_Part):
    """The Lykke HFT dialect."""

    ping_s: float = Field(30.0, gt=0, description="Each stream says something at least so often.")
    streams_a_key_max: int = Field(100, ge=1, description="Open streams of one key, or (public ones) of one address.")
    bulk_max: int = Field(1_000, ge=1, le=1_000, description="Orders of one bulk.")
    cors_origins: tuple[str, ...] = Field(("*",), description="Origins whose pages may call it from a browser.")


class KiyotakaConfig(_Part):
    """The Kiyotaka dialect."""

    shape: Literal["proto", "point"] = Field(
        "proto",
        description="Shape of JSON answers where the caller names none: as the contract's messages, or as Go's structs.",
    )
    cors_origins: tuple[str, ...] = Field(
        ("*",), description="Origins whose pages may call it from a browser; they bring a key of their own."
    )
    idle_s: float = Field(
        60.0, gt=0, description="A WebSocket of `/v2/` is closed after so long without a call or a ping of its client."
    )


class HyperoruConfig(_Part):
    """The HyperORU dialect, and what the command line means where no venue is named."""

    venue: str = Field("binance_futures", description="The venue whose instrument a bare coin (`BTC`) means.")
    locked: bool = Field(
        default=False, description="Whether `/api/klines` wants a key; without, it is open as its contract shows it."
    )


def _venues() -> dict[str, VenueConfig]:
    majors = ("BTC", "ETH", "SOL", "XRP", "DOGE", "BNB", "ADA", "LINK", "AVAX", "LTC")
    tether = tuple(f"{coin}USDT" for coin in majors)
    return {
        "binance": VenueConfig(instruments=tether),
        "binance_futures": VenueConfig(instruments=tether),
        "binance_delivery": VenueConfig(instruments=("BTCUSD_PERP", "ETHUSD_PERP")),
        "binance_options": VenueConfig(underlyings=("BTC", "ETH")),
        "bybit": VenueConfig(instruments=(*tether, "BTCUSD")),
        "bybit_spot": VenueConfig(instruments=tether[:5]),
        "bybit_options": VenueConfig(underlyings=("BTC", "ETH")),
        "okx": VenueConfig(instruments=(*(f"{coin}-USDT-SWAP" for coin in majors), "BTC-USDT", "ETH-USDT")),
        "okx_options": VenueConfig(underlyings=("BTC", "ETH")),
        "hyperliquid": VenueConfig(instruments=majors),
        "kraken_futures": VenueConfig(instruments=("PF_XBTUSD", "PF_ETHUSD", "PI_XBTUSD")),
        "coinbase": VenueConfig(instruments=("BTC-USD", "ETH-USD", "SOL-USD")),
        "deribit": VenueConfig(instruments=("BTC-PERPETUAL", "ETH-PERPETUAL"), underlyings=("BTC", "ETH")),
        "kraken": VenueConfig(instruments=("BTC/USD", "ETH/USD", "SOL/USD")),
    }


class Config(BaseSettings):
    """Everything that can be set."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", env_prefix="OPENOUTCRY_", env_nested_delimiter="__", populate_by_name=True
    )
    toml_values: ClassVar[Mapping[str, Any]] = {}

    http: str = Field("127.0.0.1:8000", description="HOST:PORT of REST, WebSocket and pages.")
    grpc: str = Field("127.0.0.1:50051", description="HOST:PORT of gRPC.")
    data: Path = Field(Path("openoutcry-data"), description="Folder of the database and of recordings; made if absent.")
    seed: int = Field(7, ge=0, description="Seed of the simulated world (`openoutcry demo`).")
    coinmarketcap_api_key: SecretStr | None = Field(
        None,
        validation_alias=AliasChoices(
            "coinmarketcap_api_key", "COINMARKETCAP_API_KEY", "OPENOUTCRY_COINMARKETCAP_API_KEY"
        ),
        description="Key for the CoinMarketCap proxies; also read from `COINMARKETCAP_API_KEY`.",
    )
    keys_pepper: SecretStr | None = Field(
        None,
        min_length=32,
        description="What API keys are hashed with; unset: the file `pepper` in the data folder, made at first use.",
    )
    tls_certificate: Path | None = Field(None, description="PEM certificate for gRPC; unset: plain text.")
    tls_key: Path | None = Field(None, description="PEM key of that certificate.")
    log: LogConfig = LogConfig()
    venues: dict[str, VenueConfig] = Field(default_factory=_venues)
    feed: FeedConfig = FeedConfig()
    candles: CandlesConfig = CandlesConfig()
    store: StoreConfig = StoreConfig()
    market: MarketConfig = MarketConfig()
    backfill: BackfillConfig = BackfillConfig()
    spikes: SpikesConfig = SpikesConfig()
    cme: CmeConfig = CmeConfig()
    limits: LimitsConfig = LimitsConfig()
    takashi: TakashiConfig = TakashiConfig()
    kiyotaka: KiyotakaConfig = KiyotakaConfig()
    llm: LlmConfig = LlmConfig()
    hyperoru: HyperoruConfig = HyperoruConfig()
    agentk: AgentkConfig = AgentkConfig()
    exchange: ExchangeConfig = ExchangeConfig()
    lykke: LykkeConfig = LykkeConfig()
    accounts: AccountsConfig = AccountsConfig()
    models: ModelsConfig = ModelsConfig()
    stripe: StripeConfig = StripeConfig()
    sources: dict[str, SourceConfig] = Field(default_factory=dict)
    news: NewsConfig = NewsConfig()

    @field_validator("http", "grpc")
    @classmethod
    def _address(cls, text: str) -> str:
        address(text)
        return text

    @field_validator("venues")
    @classmethod
    def _fill(cls, named: dict[str, VenueConfig]) -> dict[str, VenueConfig]:
        """A venue that is only partly named keeps its default instruments."""
        defaults = _venues()
        filled = dict(defaults)
        for name, given in named.items():
            kept = defaults.get(name)
            filled[name] = (
                given
                if kept is None or "instruments" in given.model_fields_set
                else given.model_copy(update={"instruments": kept.instruments})
            )
            if kept is not None and "underlyings" not in given.model_fields_set:
                filled[name] = filled[name].model_copy(update={"underlyings": kept.underlyings})
        return filled

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags, then the environment, then the file; the first that says something wins."""
        del dotenv_settings, file_secret_settings
        return (init_settings, env_settings, InitSettingsSource(settings_cls, dict(cls.toml_values)))


def load(flags: Mapping[str, Any] | None = None, file: Path | None = None) -> Config:
    """Read all sources. `flags` is a nested mapping of what the command line named. Raises BadConfig."""
    values: dict[str, Any] = {}
    if file is not None:
        try:
            values = tomllib.loads(file.read_text("utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as e:
            raise BadConfig(f"{file}: {e}") from e
    sourced = type("Config", (Config,), {"toml_values": values, "__doc__": Config.__doc__, "__module__": __name__})
    try:
        config: Config = sourced(**(flags or {}))
    except ValidationError as e:
        lines = (f"{'.'.join(map(str, error['loc']))}: {error['msg']}" for error in e.errors())
        raise BadConfig("bad settings\n  " + "\n  ".join(lines)) from None
    except Exception as e:  # pydantic-settings wraps an unreadable environment value in an error of its own
        raise BadConfig(f"bad settings: {e}") from e
    return config


def address(text: str) -> tuple[str, int]:
    """`HOST:PORT` (`[::1]:8000` for IPv6) in two parts; port 0 = any free one. Raises ValueError."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65_535:
        raise ValueError(f"{text!r} is not HOST:PORT")
    return host.strip("[]"), int(port)


def described(model: type[BaseModel] = Config, prefix: str = "") -> Iterator[tuple[str, str, str, str]]:
    """Every setting: its dotted name, type, default and meaning, in the order of this file."""
    for name, field in model.model_fields.items():
        dotted = f"{prefix}{name}"
        inner = field.annotation
        if get_origin(inner) is dict and issubclass(get_args(inner)[1], BaseModel):
            yield from described(get_args(inner)[1], f"{dotted}.NAME.")
        elif isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from described(inner, f"{dotted}.")
        else:
            shown = field.get_default(call_default_factory=True)
            yield dotted, _spell(inner), _show(shown), field.description or ""


def _spell(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return " or ".join(f"`{choice}`" for choice in get_args(kind))
    options = [option for option in get_args(kind) if option is not type(None)]
    if options and get_origin(kind) not in (tuple, dict):
        return " or ".join(_spell(option) for option in options)
    names: dict[Any, str] = {
        SecretStr: "secret text",
        str: "text",
        Path: "path",
        bool: "true or false",
        Decimal: "decimal",
    }
    if get_origin(kind) is tuple:
        return "list of text"
    if get_origin(kind) is dict:
        return "table of text" if get_args(kind)[1] is str else "table"
    return names.get(kind, getattr(kind, "__name__", str(kind)))


def _show(value: Any) -> str:
    if value is PydanticUndefined:
        return "needed"
    if value is None:
        return "unset"
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, dict):
        return "none"
    return str(value).lower() if isinstance(value, bool) else str(value) or "none"
