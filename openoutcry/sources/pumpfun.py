"""pump.fun: its coins, as its own pages ask for them; nothing of it is documented by its maker.

    GET /coins?offset=0&limit=50&sort=market_cap&order=DESC&includeNsfw=false
    [{"mint": "<token>", "name": "MARGIN", "symbol": "VIVACIOUS", "image_uri": "https://…", "bonding_curve": "<pool>",
      "created_timestamp": 1739259431166, "complete": false, "total_supply": 1000000000000000, "market_cap": 29.62,
      "usd_market_cap": 6085.13, "last_trade_timestamp": 1739259433000, "nsfw": false}]

`market_cap` is in SOL. Supplies are in the smallest unit; every coin of it has six decimals. A coin that does not tell when it
was last traded is not taken for one that was traded lately. Cloudflare stands before it and turns away who does not look like
a browser.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from openoutcry.sources import reading
from openoutcry.sources.source import Request, Token, TokenAsk, TokenPage, Wanted

PAGE = 50
PAGES_MAX = 4
DECIMALS = 6
HEADERS = {
    "accept": "application/json, text/plain, */*",
    "origin": "https://pump.fun",
    "referer": "https://pump.fun/",
    "user-agent": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
}


class PumpFun:
    """https://frontend-api-v3.pump.fun."""

    name = "pumpfun"
    url = "https://frontend-api-v3.pump.fun"
    needs_key = False
    answers = frozenset({Wanted.PUMPFUN})
    per_min = 30

    def request(self, ask: TokenAsk, key: str | None) -> Request:  # noqa: ARG002 - it takes none
        """What to send."""
        query = (
            ("offset", str((ask.step - 1) * PAGE)),
            ("limit", str(PAGE)),
            ("sort", "market_cap"),
            ("order", "DESC"),
            ("includeNsfw", "false"),
        )
        return Request(path="/coins", query=query, headers=HEADERS)

    def decode(self, ask: TokenAsk, status: int, headers: Mapping[str, str], body: bytes) -> TokenPage:
        """What was answered. Raises RateLimited, Unavailable, Unreadable."""
        reading.check(self.name, ask.wanted, status, headers)
        rows = reading.decode(body, list[Any])

        def read(row: Any) -> Token | None:
            coin = msgspec.convert(row, _Coin)
            traded_ns = reading.milliseconds(coin.last_trade_timestamp)
            if coin.nsfw is True or traded_ns is None or traded_ns < ask.since_ns:
                return None
            return _token(ask, coin)

        more = len(rows) >= PAGE and ask.step < PAGES_MAX
        return reading.page(ask, rows, read, msgspec.structs.replace(ask, step=ask.step + 1) if more else None, body)


class _Coin(msgspec.Struct, frozen=True):
    mint: str
    name: Any = None
    symbol: Any = None
    image_uri: Any = None
    total_supply: Any = None
    usd_market_cap: Any = None
    created_timestamp: Any = None
    last_trade_timestamp: Any = None
    nsfw: Any = None
    pump_swap_pool: Any = None
    raydium_pool: Any = None
    bonding_curve: Any = None


def _token(ask: TokenAsk, coin: _Coin) -> Token:
    """Raises ValueError."""
    cap, supply = reading.amount(coin.usd_market_cap), reading.amount(coin.total_supply)
    return Token(
        address=reading.address(ask.network, coin.mint),
        network_id=ask.network.id,
        symbol=reading.symbol(coin.symbol),
        name=reading.name(coin.name),
        decimals=DECIMALS,
        # What it calls the cap is nothing but price times supply.
        price=None if cap is None or not supply else reading.price(cap * 10**DECIMALS / supply),
        market_cap=cap,
        image_url=reading.url(coin.image_uri),
        created_ns=reading.milliseconds(coin.created_timestamp),
        top_pool=reading.pool(ask.network, coin.pump_swap_pool, coin.raydium_pool, coin.bonding_curve),
        source=PumpFun.name,
    )
