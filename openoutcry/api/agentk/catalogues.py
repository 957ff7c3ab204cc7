"""News, tokens and pump.fun, as outside catalogues tell them.

What a source does not say is null. An answer that is old, because its source does not answer now, says `"stale": true`.
"""

from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from openoutcry.accounts.keys import MARKET
from openoutcry.api.agentk.billing import moment
from openoutcry.api.agentk.names import coin_of
from openoutcry.api.agentk.wire import VERSION, Gate, Keyed, encode, envelope, there, time_text
from openoutcry.api.dialect import Doors
from openoutcry.clock import NS
from openoutcry.errors import Unknown
from openoutcry.feed.tokens import Told
from openoutcry.sources.source import CATEGORIES, SOLANA, Article, Label, Token

TAG = "News and tokens"
NEWS_DEFAULT, NEWS_MAX = 50, 200
TRENDING_DEFAULT, TRENDING_MAX = 20, 100
PUMPFUN_DEFAULT, PUMPFUN_MAX = 10, 50
HOURS_DEFAULT, HOURS_MAX = 24, 72

_Network = Annotated[int | None, Query(ge=1, le=2**53)]


def router(doors: Doors, gate: Gate) -> APIRouter:
    """/v1/news, /v1/tokens, /v1/pumpfun."""
    routes = APIRouter(prefix="/v1", tags=[TAG], route_class=Keyed)

    @routes.get("/news", summary="News, newest first: of all, or of one symbol, category, sentiment")
    async def news(
        request: Request,
        symbol: Annotated[str | None, Query(max_length=40, description="BTC, BTC-USD, …")] = None,
        category: Annotated[str | None, Query(max_length=40, description=f"One of {', '.join(CATEGORIES)}")] = None,
        sentiment: Annotated[Label | None, Query()] = None,
        since: Annotated[str | None, Query(max_length=40, description="ISO 8601, or milliseconds since 1970")] = None,
        limit: Annotated[int, Query(ge=1, le=NEWS_MAX)] = NEWS_DEFAULT,
    ) -> Response:
        await gate.caller(request, MARKET)
        found = await there(doors.news, "news").articles(
            coin=coin_of(symbol) if symbol else None,
            category=category,
            sentiment=sentiment,
            since_ns=moment(since, "since"),
            limit=limit,
        )
        return envelope([_article(each) for each in found])

    @routes.get("/tokens/trending", summary="What trades most on a network now")
    async def trending(
        request: Request,
        network_id: _Network = None,
        networkId: _Network = None,  # noqa: N803 - both names are in use
        limit: Annotated[int, Query(ge=1, le=TRENDING_MAX)] = TRENDING_DEFAULT,
    ) -> Response:
        await gate.caller(request, MARKET)
        network = next((each for each in (networkId, network_id) if each is not None), SOLANA)
        told = await there(doors.tokens, "token catalogues").trending(network, limit)
        return _told([_token(each) for each in told.rows], told)

    @routes.get("/tokens/{network_id}/{address:path}", summary="All that is known of one token; {} where nothing is")
    async def token(network_id: int, address: str, request: Request) -> Response:
        await gate.caller(request, MARKET)
        try:
            told = await there(doors.tokens, "token catalogues").token(network_id, address)
        except Unknown:
            return envelope({})
        return _told(_token(told.rows[0]) if told.rows else {}, told)

    @routes.get("/pumpfun/top", summary="Coins of pump.fun that traded lately, by market capitalisation")
    async def pumpfun(
        request: Request,
        limit: Annotated[int, Query(ge=1, le=PUMPFUN_MAX)] = PUMPFUN_DEFAULT,
        hours: Annotated[int, Query(ge=1, le=HOURS_MAX)] = HOURS_DEFAULT,
    ) -> Response:
        await gate.caller(request, MARKET)
        told = await there(doors.tokens, "token catalogues").pumpfun(limit, hours)
        return _told({"tokens": [_token(each) for each in told.rows], "network_id": SOLANA}, told)

    return routes


def _told(data: Any, told: Told) -> Response:
    if not told.stale:
        return envelope(data)
    return Response(encode({"v": VERSION, "data": data, "stale": True}), media_type="application/json")


def _token(told: Token) -> dict[str, Any]:
    # As Codex names them: the vendor passes its answers on.
    return {
        "address": told.address,
        "networkId": told.network_id,
        "symbol": told.symbol,
        "name": told.name,
        "decimals": told.decimals,
        "price": told.price,
        "priceChange24": told.change_24h,
        "volume": told.volume_24h,
        "liquidity": told.liquidity,
        "marketCap": told.market_cap,
        "txnCount24": told.trades_24h,
        "imageThumbUrl": told.image_url,
        "createdAt": None if told.created_ns is None else told.created_ns // NS,
        "topPairId": told.top_pair_id,
        "source": told.source,
    }


def _article(told: Article) -> dict[str, Any]:
    return {
        "id": told.id,
        "title": told.title,
        "url": told.url,
        "source": told.source,
        "published_at": time_text(told.published_ns),
        "summary": told.opinion.summary,
        "sentiment": {"label": told.opinion.label, "score": told.opinion.score},
        "tickers": told.opinion.tickers,
        "category": told.opinion.category,
        "image_url": told.image_url,
        "enriched_by": told.opinion.by,
    }
