"""The catalogues of tokens we play: over HTTP, read by the sources that read the real ones, held to one truth."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, NamedTuple

import httpx2
import pytest

from openoutcry.app import simulated
from openoutcry.clock import ManualClock
from openoutcry.config import SourceConfig, load
from openoutcry.errors import RateLimited, Unavailable, Unknown, Unreadable
from openoutcry.feed.tokens import Tokens
from openoutcry.simulator.simulator import Simulator
from openoutcry.simulator.tokens import CHAINS, SimToken, TokenMarket
from openoutcry.sources import TOKEN_SOURCES, reading
from openoutcry.sources.source import NETWORKS, SOLANA, Network, Token, TokenAsk, TokenPage, Wanted
from openoutcry.telemetry import Telemetry
from openoutcry.transport import HttpClient

NS = 1_000_000_000
KEY = "k-1234567890"
KEYED = ("codex", "birdeye")
WETH = "0xc02aaa39b223fe8d0a0e5c4f27ead9083c756cc2"

Play = Callable[..., Awaitable[Simulator]]


class Stand(NamedTuple):
    """All catalogues on one port, and the truth behind them."""

    simulator: Simulator
    market: TokenMarket
    clock: ManualClock
    http: HttpClient

    async def page(self, name: str, ask: TokenAsk, key: str | None = KEY) -> TokenPage:
        source = TOKEN_SOURCES[name]()
        request = source.request(ask, key)
        url = self.simulator.addresses()[name]["rest"] + request.path
        answer = await self.http.send(
            request.method, url, query=request.query, headers=request.headers, body=request.body
        )
        return source.decode(ask, answer.status, answer.headers, answer.body)

    async def all(self, name: str, ask: TokenAsk) -> Sequence[Token]:
        found: list[Token] = []
        following: TokenAsk | None = ask
        while following is not None:
            page = await self.page(name, following)
            assert page.skipped == 0
            found += page.tokens
            following = page.next
        return reading.distinct(found)

    def tokens(self, *, keys: Sequence[str] = ()) -> Tokens:
        settings = {
            name: SourceConfig.model_validate({"url": at["rest"], "api_key": KEY if name in keys else None})
            for name, at in self.simulator.addresses().items()
        }
        return Tokens(settings, http=self.http, clock=self.clock, telemetry=Telemetry())

    def truth(self, token: Token) -> dict[str, Any]:
        """What every source must say of it, but for how it rounds."""
        known = self.market.find(token.network_id, token.address)
        assert known is not None
        told = self.market.told(known, self.clock.now_ns())
        return {
            "symbol": known.symbol,
            "name": known.name,
            "price": pytest.approx(told.price, rel=1e-3),
            "change_24h": pytest.approx(told.change, abs=1e-3),
            "volume_24h": pytest.approx(told.volume, rel=1e-3),
            "liquidity": pytest.approx(told.liquidity, rel=1e-3),
            "market_cap": pytest.approx(told.cap, rel=1e-3),
            "image_url": known.image,
        }


@pytest.fixture
async def stand(play: Play, clock: ManualClock) -> AsyncIterator[Stand]:
    simulator = await play(*TOKEN_SOURCES)
    http = HttpClient()
    yield Stand(simulator, TokenMarket(simulator.world), clock, http)
    await http.close()


def trending(network: Network, clock: ManualClock) -> TokenAsk:
    return TokenAsk(wanted=Wanted.TRENDING, network=network, limit=100, now_ns=clock.now_ns())


def of(network: Network, address: str) -> TokenAsk:
    return TokenAsk(wanted=Wanted.TOKEN, network=network, address=address)


def same(told: Token, truth: dict[str, Any]) -> None:
    assert {name: getattr(told, name) for name in truth} == truth


# -- each tells the truth


def test_it_knows_the_networks_by_the_names_the_sources_know_them_by() -> None:
    assert {(c.id, c.gecko, c.name) for c in CHAINS} == {(n.id, n.gecko, n.name) for n in NETWORKS.values()}


@pytest.mark.parametrize("network", NETWORKS.values(), ids=lambda network: network.name)
@pytest.mark.parametrize("name", ["codex", "birdeye"])
async def test_those_with_keys_tell_all_that_trends_in_order(stand: Stand, name: str, network: Network) -> None:
    told = await stand.all(name, trending(network, stand.clock))
    truth = stand.market.trending(network.id, stand.clock.now_ns())
    assert [token.address for token in told] == [token.address for token in truth]
    for token, known in zip(told, truth, strict=True):
        assert token.decimals == known.decimals
        same(token, stand.truth(token))


@pytest.mark.parametrize("network", NETWORKS.values(), ids=lambda network: network.name)
async def test_geckoterminal_tells_the_first_pool_of_each(stand: Stand, network: Network) -> None:
    ask = trending(network, stand.clock)
    assert len((await stand.page("geckoterminal", ask)).tokens) <= 20
    told = await stand.all("geckoterminal", ask)
    truth = stand.market.trending(network.id, stand.clock.now_ns())
    assert [(token.address, token.top_pool) for token in told] == [(token.address, token.pools[0]) for token in truth]
    # Only a part of a token's trading happens there.
    for token in told:
        whole = stand.truth(token) | {"volume_24h": token.volume_24h, "liquidity": token.liquidity}
        same(token, whole)
        assert 0 <= token.volume_24h <= stand.market.told(sim(stand, token), stand.clock.now_ns()).volume * 1.001  # type: ignore[operator]


def sim(stand: Stand, token: Token) -> SimToken:
    found = stand.market.find(token.network_id, token.address)
    assert found is not None
    return found


async def test_dexscreener_tells_what_is_boosted_by_what_was_traded(stand: Stand) -> None:
    told = await stand.all("dexscreener", trending(NETWORKS[8453], stand.clock))
    assert len(told) == 6
    for token in told:
        same(token, stand.truth(token))
        assert token.decimals is None
    assert [token.volume_24h for token in told] == sorted((token.volume_24h or 0 for token in told), reverse=True)


@pytest.mark.parametrize("name", ["codex", "birdeye", "geckoterminal", "dexscreener"])
@pytest.mark.parametrize("network_id", [SOLANA, 1])
async def test_every_token_is_told_alike_by_all(stand: Stand, name: str, network_id: int) -> None:
    for known in stand.market.listed(network_id)[:14]:
        (token,) = (await stand.page(name, of(NETWORKS[network_id], known.address))).tokens
        same(token, stand.truth(token))
        if name != "birdeye":
            assert token.created_ns == known.created_ns
            assert token.top_pool == known.pools[0]


@pytest.mark.parametrize("name", ["codex", "birdeye", "geckoterminal", "dexscreener"])
async def test_a_token_of_nobody_is_unknown(stand: Stand, name: str) -> None:
    with pytest.raises(Unknown):
        await stand.page(name, of(NETWORKS[1], "0x" + "1" * 40))


@pytest.mark.parametrize("name", KEYED)
@pytest.mark.parametrize("key", [None, "short"])
async def test_a_wrong_key_is_refused(stand: Stand, name: str, key: str | None) -> None:
    with pytest.raises(RateLimited, match="does not take our key"):
        await stand.page(name, of(NETWORKS[1], WETH), key)


async def test_codex_refuses_a_field_that_it_does_not_have(stand: Stand) -> None:
    async with httpx2.AsyncClient(trust_env=False) as client:
        said = {"query": "{filterTokens {results {priceUsd}}}", "variables": {"network": [1]}}
        url = stand.simulator.addresses()["codex"]["rest"] + "/graphql"
        answer = await client.post(url, json=said, headers={"authorization": KEY})
    assert answer.json()["errors"][0]["extensions"]["code"] == "GRAPHQL_VALIDATION_FAILED"


# -- pump.fun


@pytest.mark.parametrize("hours", [1, 3, 24, 72])
async def test_pump_fun_tells_what_was_traded_within_the_hours(stand: Stand, hours: int) -> None:
    now_ns = stand.clock.now_ns()
    told = (await stand.tokens().pumpfun(50, hours)).rows
    since_ns = now_ns - hours * 3_600 * NS
    truth = [token for token in stand.market.pumped() if stand.market.traded_ns(token, now_ns) >= since_ns]
    assert 0 < len(truth) < len(stand.market.pumped())
    assert {token.address for token in told} == {token.address for token in truth}
    caps = [stand.market.told(sim(stand, token), now_ns).cap for token in told]
    assert [token.market_cap for token in told] == pytest.approx(caps)
    assert caps == sorted(caps, reverse=True)
    assert all(
        token.address.endswith("pump") and token.price == pytest.approx(cap / 1e9)
        for token, cap in zip(told, caps, strict=True)
    )


async def test_pump_fun_turns_away_who_does_not_look_like_a_browser(stand: Stand) -> None:
    answer = await stand.http.send("GET", stand.simulator.addresses()["pumpfun"]["rest"] + "/coins")
    assert answer.status == 403
    with pytest.raises(RateLimited, match="does not let us in"):
        TOKEN_SOURCES["pumpfun"]().decode(
            TokenAsk(wanted=Wanted.PUMPFUN, network=NETWORKS[SOLANA]), answer.status, answer.headers, answer.body
        )


async def test_where_pump_fun_fails_geckoterminal_tells_of_the_same_coins(stand: Stand) -> None:
    stand.simulator.faults.set("pumpfun", storm=530)
    told = (await stand.tokens().pumpfun(50, 24)).rows
    truth = {
        token.address for token in stand.market.pumped() if stand.clock.now_ns() - stand.market.traded_ns(token, stand.clock.now_ns()) < 24 * 3_600 * NS
    }  # fmt: skip
    assert {token.address for token in told} == truth
    assert {token.source for token in told} == {"geckoterminal"}


async def test_each_coin_is_on_one_of_pump_funs_exchanges(stand: Stand) -> None:
    listed: list[str] = []
    for dex in ("pump-fun", "pumpswap"):
        for page in ("1", "2"):
            url = stand.simulator.addresses()["geckoterminal"]["rest"] + f"/networks/solana/dexes/{dex}/pools"
            answer = await stand.http.send("GET", url, query=[("page", page)])
            rows = json.loads(answer.body)["data"]
            assert page == "2" or 0 < len(rows) <= 20
            listed += [row["relationships"]["base_token"]["data"]["id"].removeprefix("solana_") for row in rows]
    assert sorted(listed) == sorted(token.address for token in stand.market.pumped())


# -- the whole way


async def test_those_with_keys_come_first_and_each_stands_in_for_the_one_before(stand: Stand) -> None:
    tokens = stand.tokens(keys=KEYED)
    sources: list[str] = []
    for name in ("codex", "birdeye", "geckoterminal", "dexscreener"):
        sources.append((await tokens.token(1, WETH)).rows[0].source)
        stand.simulator.faults.set(name, html=True)
        await stand.clock.advance(31)
    assert sources == ["codex", "birdeye", "geckoterminal", "dexscreener"]
    told = await tokens.token(1, WETH)
    assert (told.stale, told.rows[0].source) == (True, "dexscreener")
    with pytest.raises(Unavailable):
        await tokens.trending(1)
    await tokens.close()


async def test_a_storm_of_429_is_waited_out_as_long_as_it_says(stand: Stand) -> None:
    stand.simulator.faults.set("geckoterminal", storm=429, retry_after_s=7)
    tokens = stand.tokens()
    assert (await tokens.trending(8453)).rows[0].source == "dexscreener"
    stand.simulator.faults.clear("geckoterminal")
    assert (await tokens.trending(10)).rows[0].source == "dexscreener"
    await stand.clock.advance(7.1)
    assert (await tokens.trending(1)).rows[0].source == "geckoterminal"
    await tokens.close()


async def test_its_own_limit_is_never_run_into(stand: Stand) -> None:
    tokens = stand.tokens()
    for network_id in NETWORKS:
        for known in stand.market.listed(network_id)[:5]:
            assert (await tokens.token(network_id, known.address)).rows
    # GeckoTerminal takes thirty questions a minute; the others went to DexScreener.
    assert (await tokens.trending(SOLANA)).rows[0].source == "geckoterminal"
    await tokens.close()


# -- time


async def test_the_change_of_a_day_is_that_of_the_prices(stand: Stand, clock: ManualClock) -> None:
    for token in stand.market.listed(SOLANA)[:20]:
        now, before = (stand.market.told(token, clock.now_ns() - ago_ns).price for ago_ns in (0, 86_400 * NS))
        assert stand.market.told(token, clock.now_ns()).change == pytest.approx(now / before - 1)
        assert now != before


async def test_prices_move_with_the_clock_and_are_the_same_whenever_asked_for(stand: Stand, clock: ManualClock) -> None:
    ask = trending(NETWORKS[1], clock)
    before, again = await stand.page("codex", ask), await stand.page("codex", ask)
    assert before == again
    await clock.advance(61)
    after = {token.address: token.price for token in (await stand.page("codex", ask)).tokens}
    moved = [token.address for token in before.tokens if token.price != after[token.address]]
    assert len(moved) == len(after)
    # A world made later has the same past.
    other = TokenMarket(Simulator(7, ManualClock(clock.now_ns() + 86_400 * NS), ["codex"]).world)
    known = stand.market.listed(1)[3]
    assert other.told(known, clock.now_ns()) == stand.market.told(known, clock.now_ns())
    assert TokenMarket(Simulator(8, clock, ["codex"]).world).listed(1)[3] != known


async def test_numbers_are_such_as_a_token_has(stand: Stand, clock: ManualClock) -> None:
    addresses: set[tuple[int, str]] = set()
    for chain in CHAINS:
        for token in stand.market.listed(chain.id):
            addresses.add((chain.id, token.address))
            network = NETWORKS[chain.id]
            assert reading.is_address(network, token.address)
            assert all(reading.pool(network, pool) for pool in token.pools)
            assert token.created_ns < clock.now_ns()
            told = stand.market.told(token, clock.now_ns())
            assert told.price > 0
            assert -0.9 < told.change < 3
            assert min(told.volume, told.liquidity, told.buys, told.sells) >= 0
    assert len(addresses) == 8 * 13 + 28


async def test_html_is_unreadable(stand: Stand) -> None:
    stand.simulator.faults.set("birdeye", html=True)
    with pytest.raises(Unreadable):
        await stand.page("birdeye", trending(NETWORKS[1], stand.clock))


async def test_in_a_played_world_nobody_outside_is_asked(play: Play) -> None:
    simulator = await play("coinmarketcap", "geckoterminal", "codex")
    said = {"codex": {"api_key": KEY}, "geckoterminal": {"on": False}}
    sources = simulated(load({"sources": said}), simulator).sources
    addresses = simulator.addresses()
    assert {name: sources[name].on for name in TOKEN_SOURCES} == {
        "codex": True,
        "birdeye": False,
        "pumpfun": False,
        "geckoterminal": False,
        "dexscreener": False,
    }
    assert sources["codex"].url == addresses["codex"]["rest"]
    assert sources["codex"].api_key is not None
