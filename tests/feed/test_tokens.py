"""Tokens from catalogues: who is asked and when, what is kept, what is told while nobody answers."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import pytest

from openoutcry.clock import NS, ManualClock
from openoutcry.config import SourceConfig
from openoutcry.errors import Invalid, NotConfigured, TimedOut, Unavailable
from openoutcry.feed import tokens as feed
from openoutcry.feed.tokens import Tokens
from openoutcry.sources import TOKEN_SOURCES
from openoutcry.sources.source import NETWORKS, SOLANA
from openoutcry.telemetry import Telemetry
from openoutcry.transport import HttpClient, Response, TransportError

START_NS = 1_795_179_620 * NS
MINT = "EKpQGSJtjMFqKZ9KQanSqYXRcF8fBopzLHYxdM65zcjm"
PEPE = "0x6982508145454Ce325dDbE47a25d4ec3d2311933"
ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZ"

Said = Response | TransportError


def ok(said: Any) -> Response:
    return Response(200, {}, said if isinstance(said, bytes) else json.dumps(said).encode())


def mint(n: int) -> str:
    return f"{ALPHABET[n // 30]}{ALPHABET[n % 30]}".ljust(40, "x") + "pump"


def gecko(*addresses: str, network: str = "solana", cap: Callable[[str], str] = lambda _: "5") -> Response:
    day = {"h24": {"buys": 1, "sells": 0}}
    rows = [
        {
            "attributes": {"base_token_price_usd": "2", "market_cap_usd": cap(each), "transactions": day},
            "relationships": {"base_token": {"data": {"id": f"{network}_{each}"}}},
        }
        for each in addresses
    ]
    return ok({"data": rows, "included": []})


def gecko_token(address: str, price: str = "2") -> Response:
    return ok({"data": {"attributes": {"address": address, "price_usd": price}}})


def dex(address: str, chain: str = "ethereum") -> Response:
    return ok([{"chainId": chain, "baseToken": {"address": address}, "priceUsd": "3"}])


def codex(address: str, network_id: int) -> Response:
    row = {"priceUSD": "4", "token": {"address": address, "networkId": network_id}}
    return ok({"data": {"filterTokens": {"results": [row]}}})


def birdeye(address: str) -> Response:
    return ok({"success": True, "data": {"address": address, "price": 5, "tokens": [{"address": address, "price": 5}]}})


def pump(*coins: tuple[str, float, int]) -> Response:
    """Address, market cap, seconds since the last trade."""
    rows = [
        {"mint": address, "usd_market_cap": cap, "last_trade_timestamp": (START_NS // NS - ago_s) * 1_000}
        for address, cap, ago_s in coins
    ]
    return ok(rows)


class Web:
    """All five sources: each answers what `says` has for it, when it is asked, and while `open` is set."""

    def __init__(self) -> None:
        self.says: dict[str, Callable[[str], Said]] = {}
        self.asked: list[str] = []
        self.headers: list[Mapping[str, str]] = []
        self.open = asyncio.Event()
        self.open.set()

    def of(self, source: str) -> list[str]:
        return [path for name, _, path in (each.partition("/") for each in self.asked) if name == source]

    async def send(
        self,
        method: str,
        url: str,
        *,
        query: Sequence[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> Response:
        name, _, path = url.removeprefix("http://").partition("/")
        self.asked.append("/".join([name, path, *(value for key, value in query if key == "page")]))
        self.headers.append(headers or {})
        await self.open.wait()
        said = self.says.get(name, _broken)(path)
        if isinstance(said, TransportError):
            raise said
        return said


def _broken(_: str) -> Said:
    return Response(500, {}, b"")


def _always(said: Said) -> Callable[[str], Said]:
    return lambda _: said


class Rig:
    def __init__(
        self, *, keys: Mapping[str, str] | None = None, off: Sequence[str] = (), tokens_kept_max: int = 100
    ) -> None:
        self.clock, self.web, self.telemetry = ManualClock(START_NS), Web(), Telemetry()
        settings = {
            name: SourceConfig.model_validate(
                {"on": name not in off, "url": f"http://{name}/", "api_key": (keys or {}).get(name)}
            )
            for name in TOKEN_SOURCES
        }
        self.tokens = Tokens(
            settings, http=self.web, clock=self.clock, telemetry=self.telemetry, tokens_kept_max=tokens_kept_max
        )

    def says(self, **said: Said | Callable[[str], Said]) -> None:
        self.web.says.update({name: each if callable(each) else _always(each) for name, each in said.items()})

    def count(self, name: str, **labels: str) -> float:
        return self.telemetry.registry.get_sample_value(f"openoutcry_{name}", labels) or 0.0


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    made = Rig()
    yield made
    await made.tokens.close()


# -- who is asked


async def test_without_keys_geckoterminal_is_asked_and_nobody_else(rig: Rig) -> None:
    rig.says(geckoterminal=gecko(MINT))
    told = await rig.tokens.trending(SOLANA)
    assert [(token.address, token.source) for token in told.rows] == [(MINT, "geckoterminal")]
    assert not told.stale
    assert rig.web.asked == ["geckoterminal/networks/solana/trending_pools/1"]


async def test_those_with_keys_are_asked_first_and_the_next_one_answers_where_one_fails() -> None:
    rig = Rig(keys={"codex": "k-codex", "birdeye": "k-bird"})
    rig.says(
        codex=codex(MINT, SOLANA), birdeye=birdeye(MINT), geckoterminal=gecko(MINT), dexscreener=TransportError("x")
    )
    assert (await rig.tokens.trending(SOLANA)).rows[0].source == "codex"
    assert rig.web.headers[0]["authorization"] == "k-codex"
    rig.says(codex=Response(500, {}, b""))
    assert (await rig.tokens.trending(SOLANA, 30)).rows[0].source == "birdeye"
    rig.says(birdeye=ok(b"<html>"))
    assert (await rig.tokens.trending(SOLANA, 50)).rows[0].source == "geckoterminal"
    rig.says(
        geckoterminal=TransportError("down"),
        dexscreener=lambda path: BOOSTS if "boosts" in path else dex(MINT, "solana"),
    )
    assert (await rig.tokens.trending(SOLANA, 70)).rows[0].source == "dexscreener"
    await rig.tokens.close()


BOOSTS = ok([{"chainId": "solana", "tokenAddress": MINT}])


async def test_a_source_that_is_off_is_not_asked_and_all_off_is_a_setting() -> None:
    rig = Rig(off=("geckoterminal",))
    rig.says(dexscreener=dex(PEPE))
    assert (await rig.tokens.token(1, PEPE)).rows[0].source == "dexscreener"
    rig = Rig(off=tuple(TOKEN_SOURCES))
    with pytest.raises(NotConfigured, match="geckoterminal"):
        await rig.tokens.trending(SOLANA)


async def test_a_key_that_no_header_carries_is_refused_without_being_shown() -> None:
    with pytest.raises(NotConfigured) as refused:
        Rig(keys={"codex": "k\u00e4y\r\nHost: x"})
    assert "Host" not in refused.value.text


async def test_lists_go_over_pages_until_there_are_enough_tokens_each_once(rig: Rig) -> None:
    def page(path: str) -> Response:
        number = int(rig.web.asked[-1].rpartition("/")[2])
        # Each page repeats half of the one before.
        return gecko(*(mint(10 * number + n) for n in range(20)))

    rig.says(geckoterminal=page)
    told = await rig.tokens.trending(SOLANA, 35)
    assert [token.address for token in told.rows] == [mint(10 + n) for n in range(35)]
    assert len(rig.web.asked) == 3


async def test_a_later_page_that_fails_shortens_the_list(rig: Rig) -> None:
    rig.says(geckoterminal=lambda _: Response(502, {}, b"") if len(rig.web.asked) > 1 else gecko(*map(mint, range(20))))
    assert len((await rig.tokens.trending(SOLANA, 100)).rows) == 20


async def test_a_token_that_one_does_not_know_is_asked_of_the_next(rig: Rig) -> None:
    rig.says(geckoterminal=Response(404, {}, b"{}"), dexscreener=dex(PEPE))
    assert (await rig.tokens.token(1, PEPE)).rows[0].source == "dexscreener"


async def test_a_token_that_nobody_knows_is_no_failure_and_is_not_asked_for_again(rig: Rig) -> None:
    rig.says(geckoterminal=Response(404, {}, b"{}"), dexscreener=ok([]))
    for _ in range(3):
        assert (await rig.tokens.token(1, PEPE)).rows == ()
    assert len(rig.web.asked) == 2
    # Nor is it where one knows nothing of it and the other is down.
    rig.says(dexscreener=TransportError("down"))
    await rig.clock.advance(30)
    assert (await rig.tokens.token(1, PEPE)).rows == ()


async def test_addresses_of_the_evm_are_one_in_any_case(rig: Rig) -> None:
    rig.says(geckoterminal=gecko_token(PEPE))
    assert await rig.tokens.token(1, PEPE) == await rig.tokens.token(1, PEPE.lower())
    assert rig.web.asked == [f"geckoterminal/networks/eth/tokens/{PEPE.lower()}"]


# -- pump.fun


async def test_coins_come_by_their_value_from_pump_fun_itself(rig: Rig) -> None:
    rig.says(pumpfun=pump((mint(1), 10.0, 60), (mint(2), 30.0, 7_200), (mint(3), 20.0, 60)))
    assert [token.address for token in (await rig.tokens.pumpfun(10, 24)).rows] == [mint(2), mint(3), mint(1)]
    assert [token.address for token in (await rig.tokens.pumpfun(1, 1)).rows] == [mint(3)]
    assert [path for path in rig.web.asked if not path.startswith("pumpfun")] == []
    assert "Mozilla" in rig.web.headers[0]["user-agent"]


async def test_where_pump_fun_lets_nobody_in_geckoterminal_tells_of_its_coins(rig: Rig) -> None:
    rig.says(
        pumpfun=Response(530, {}, b"error code: 1016"),
        geckoterminal=lambda path: gecko(mint(2), cap=lambda _: "9") if "pumpswap" in path else gecko(mint(1)),
    )
    told = await rig.tokens.pumpfun()
    assert [(token.address, token.source) for token in told.rows] == [
        (mint(2), "geckoterminal"),
        (mint(1), "geckoterminal"),
    ]
    assert rig.web.of("geckoterminal") == [f"networks/solana/dexes/{dex}/pools/1" for dex in ("pump-fun", "pumpswap")]


async def test_no_coin_of_late_is_an_answer(rig: Rig) -> None:
    rig.says(pumpfun=pump((mint(1), 10.0, 7_200)))
    assert (await rig.tokens.pumpfun(10, 1)).rows == []


# -- what is kept


@pytest.mark.parametrize(("what", "fresh_s"), [("trending", 60), ("token", 30), ("pumpfun", 20)])
async def test_an_answer_is_told_again_for_a_while(rig: Rig, what: str, fresh_s: int) -> None:
    rig.says(
        geckoterminal=lambda path: gecko_token(PEPE) if "tokens" in path else gecko(MINT),
        pumpfun=pump((mint(1), 1.0, 1)),
    )

    async def ask() -> None:
        told = {"trending": (SOLANA,), "token": (1, PEPE), "pumpfun": ()}[what]
        await getattr(rig.tokens, what)(*told)

    await ask()
    await rig.clock.advance(fresh_s - 0.001)
    await ask()
    assert len(rig.web.asked) == 1
    await rig.clock.advance(0.001)
    await ask()
    assert len(rig.web.asked) == 2


async def test_a_longer_list_answers_for_a_shorter_one(rig: Rig) -> None:
    rig.says(geckoterminal=lambda _: gecko(*map(mint, range(20))))
    await rig.tokens.trending(SOLANA, 40)
    asked = len(rig.web.asked)
    assert len((await rig.tokens.trending(SOLANA, 3)).rows) == 3
    assert len(rig.web.asked) == asked
    # But not the other way round.
    await rig.tokens.trending(SOLANA, 100)
    assert len(rig.web.asked) > asked


async def test_while_nobody_answers_the_last_answer_is_told_as_stale_for_ten_minutes(rig: Rig) -> None:
    rig.says(geckoterminal=gecko_token(PEPE))
    good = (await rig.tokens.token(1, PEPE)).rows
    rig.says(geckoterminal=TransportError("ConnectError"))
    await rig.clock.advance(60)
    told = await rig.tokens.token(1, PEPE)
    assert (told.rows, told.stale) == (good, True)
    await rig.clock.advance(539.9)
    assert (await rig.tokens.token(1, PEPE)).stale
    await rig.clock.advance(0.2)
    with pytest.raises(Unavailable, match="geckoterminal does not answer"):
        await rig.tokens.token(1, PEPE)
    rig.says(geckoterminal=gecko_token(PEPE, "7"))
    await rig.clock.advance(61)
    told = await rig.tokens.token(1, PEPE)
    assert ([token.price for token in told.rows], told.stale) == ([7.0], False)
    assert rig.count("token_answers_total", wanted="token", how="stale") == 2


async def test_what_is_kept_is_bounded() -> None:
    rig = Rig(tokens_kept_max=3)
    rig.says(geckoterminal=lambda path: gecko_token(path.rpartition("/")[2]))
    addresses = [f"0x{n:040x}" for n in range(5)]
    for address in addresses:
        await rig.tokens.token(1, address)
    assert rig.count("token_answers_kept") == 3
    await rig.tokens.token(1, addresses[-3])
    assert len(rig.web.asked) == 5
    await rig.tokens.token(1, addresses[0])
    assert len(rig.web.asked) == 6
    # What is asked for anew is the newest.
    await rig.clock.advance(30)
    await rig.tokens.token(1, addresses[3])
    await rig.tokens.token(1, addresses[1])
    await rig.tokens.token(1, addresses[2])
    await rig.tokens.token(1, addresses[3])
    assert len(rig.web.asked) == 9
    await rig.tokens.close()


# -- one flight


async def test_however_many_ask_the_source_is_asked_once(rig: Rig) -> None:
    rig.says(geckoterminal=gecko_token(PEPE))
    rig.web.open.clear()
    asking = [asyncio.create_task(rig.tokens.token(1, PEPE)) for _ in range(20)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    # The one who began it leaves.
    asking[0].cancel()
    await asyncio.sleep(0)
    rig.web.open.set()
    told = await asyncio.gather(*asking[1:])
    assert {row.price for each in told for row in each.rows} == {2.0}
    assert len(told) == 19
    assert asking[0].cancelled()
    assert len(rig.web.asked) == 1


async def test_a_failure_is_told_to_all_who_waited_and_not_asked_for_again_at_once(rig: Rig) -> None:
    rig.web.open.clear()
    asking = [asyncio.create_task(rig.tokens.token(1, PEPE)) for _ in range(3)]
    await asyncio.sleep(0)
    rig.web.open.set()
    told = await asyncio.gather(*asking, return_exceptions=True)
    assert [type(each) for each in told] == [Unavailable] * 3
    assert len({id(each) for each in told}) == 3
    asked = len(rig.web.asked)
    with pytest.raises(Unavailable):
        await rig.tokens.token(1, PEPE)
    assert len(rig.web.asked) == asked == 2


async def test_flights_are_bounded(rig: Rig) -> None:
    rig.web.open.clear()
    asking = [asyncio.create_task(rig.tokens.token(1, f"0x{n:040x}")) for n in range(feed.FLIGHTS_MAX)]
    await asyncio.sleep(0)
    with pytest.raises(Unavailable, match="too many"):
        await rig.tokens.token(1, PEPE)
    await rig.tokens.close()
    told = await asyncio.gather(*asking, return_exceptions=True)
    assert {type(each) for each in told} == {Unavailable}
    asked = len(rig.web.asked)
    with pytest.raises(Unavailable, match="about to stop"):
        await rig.tokens.token(1, PEPE)
    assert len(rig.web.asked) == asked


# -- what a source takes


async def test_no_source_is_asked_more_in_a_minute_than_it_takes_and_lists_find_room(rig: Rig) -> None:
    rig.says(geckoterminal=lambda path: gecko_token(path.rpartition("/")[2]) if "tokens" in path else gecko(MINT))
    failed = 0
    for n in range(60):
        try:
            await rig.tokens.token(1, f"0x{n:040x}")
        except Unavailable:
            failed += 1
    assert len(rig.web.of("geckoterminal")) == 21
    assert failed == 39
    for network_id in NETWORKS:
        if network_id != SOLANA:
            rig.says(geckoterminal=gecko(PEPE, network=NETWORKS[network_id].gecko))
            assert (await rig.tokens.trending(network_id)).rows
    await rig.clock.advance(61)
    rig.says(geckoterminal=gecko_token(PEPE))
    assert (await rig.tokens.token(1, PEPE)).rows


@pytest.mark.parametrize(
    ("status", "headers", "pause_s"), [(429, {"retry-after": "17"}, 17), (429, {}, 30), (403, {}, 120)]
)
async def test_a_source_that_asks_for_patience_is_left_alone_so_long(
    rig: Rig, status: int, headers: dict[str, str], pause_s: int
) -> None:
    rig.says(geckoterminal=Response(status, headers, b""), dexscreener=lambda path: dex(path.rpartition("/")[2]))
    await rig.tokens.token(1, PEPE)
    rig.says(geckoterminal=lambda path: gecko_token(path.rpartition("/")[2]))
    await rig.clock.advance(pause_s - 0.1)
    assert (await rig.tokens.token(1, "0x" + "1" * 40)).rows[0].source == "dexscreener"
    assert len(rig.web.of("geckoterminal")) == 1
    await rig.clock.advance(0.2)
    assert (await rig.tokens.token(1, "0x" + "2" * 40)).rows[0].source == "geckoterminal"


async def test_a_source_that_fails_is_left_alone_ever_longer(rig: Rig) -> None:
    rig.says(geckoterminal=TransportError("down"), dexscreener=dex(PEPE))
    gaps: list[int] = []
    for n in range(200):
        before = len(rig.web.of("geckoterminal"))
        rig.says(dexscreener=dex(f"0x{n:040x}"))
        await rig.tokens.token(1, f"0x{n:040x}")
        if len(rig.web.of("geckoterminal")) > before:
            gaps.append(n)
        await rig.clock.advance(1)
    assert [b - a for a, b in itertools.pairwise(gaps)] == [1, 2, 4, 8, 16, 32, 60, 60]
    # Until it answers again.
    await rig.clock.advance(60)
    rig.says(geckoterminal=lambda path: gecko_token(path.rpartition("/")[2]))
    assert (await rig.tokens.token(1, PEPE)).rows[0].source == "geckoterminal"
    rig.says(geckoterminal=TransportError("down"), dexscreener=dex("0x" + "1" * 40))
    await rig.tokens.token(1, "0x" + "1" * 40)
    await rig.clock.advance(1)
    rig.says(geckoterminal=gecko_token("0x" + "2" * 40))
    assert (await rig.tokens.token(1, "0x" + "2" * 40)).rows[0].source == "geckoterminal"


async def test_one_strange_token_does_not_make_the_source_be_left_alone(rig: Rig) -> None:
    rig.says(geckoterminal=gecko_token("0x" + "1" * 40))
    with pytest.raises(Unavailable, match="another token"):
        await rig.tokens.token(1, PEPE)
    rig.says(geckoterminal=gecko_token("0x" + "2" * 40))
    assert (await rig.tokens.token(1, "0x" + "2" * 40)).rows


async def test_a_question_nobody_answered_is_asked_again_in_a_moment(rig: Rig) -> None:
    rig.says(geckoterminal=gecko_token("0x" + "1" * 40), dexscreener=ok(b"<html>"))
    for after_s, asked in ((0, 1), (4.9, 1), (0.2, 2)):
        await rig.clock.advance(after_s)
        with pytest.raises(Unavailable):
            await rig.tokens.token(1, PEPE)
        assert len(rig.web.of("geckoterminal")) == asked


async def test_rows_that_were_not_read_are_counted(rig: Rig) -> None:
    rig.says(geckoterminal=gecko(MINT, "no-address"))
    await rig.tokens.trending(SOLANA)
    assert rig.count("token_rows_skipped_total", source="geckoterminal") == 1


@pytest.mark.parametrize(("answer_s", "flight_s"), [(0.05, 60.0), (60.0, 0.05)])
async def test_what_does_not_answer_in_time_is_told_as_that(answer_s: float, flight_s: float) -> None:
    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(mute, "127.0.0.1", 0)
    http = HttpClient()
    address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    settings = {name: SourceConfig(on=name == "geckoterminal", url=address, api_key=None) for name in TOKEN_SOURCES}
    tokens = Tokens(
        settings,
        http=http,
        clock=ManualClock(START_NS),
        telemetry=Telemetry(),
        answer_s_max=answer_s,
        flight_s_max=flight_s,
    )
    with pytest.raises(TimedOut) as refused:
        await tokens.token(1, PEPE)
    assert address not in refused.value.text
    await tokens.close()
    await http.close()
    server.close()
    await server.wait_closed()


# -- what may be asked


@pytest.mark.parametrize(
    "address",
    [
        "", "0x", PEPE + "0", PEPE[:-1], PEPE + "\n", "../../../etc/passwd", "%2e%2e%2f", f"{PEPE}?x=1", f"{PEPE}/../x",
        "g" * 42, MINT, PEPE.replace("0x", "0X"), "0x" + "\uff11" * 40, "x" * 100_000,
    ],
)  # fmt: skip
async def test_what_is_no_address_reaches_nobody(rig: Rig, address: str) -> None:
    with pytest.raises(Invalid):
        await rig.tokens.token(1, address)
    assert rig.web.asked == []


@pytest.mark.parametrize(
    "address", ["", PEPE, MINT[:31], MINT + "x", MINT[:-1] + "0", MINT[:-1] + "l", MINT[:-2] + "/x"]
)
async def test_what_is_no_address_of_solana_reaches_nobody(rig: Rig, address: str) -> None:
    with pytest.raises(Invalid):
        await rig.tokens.token(SOLANA, address)
    assert rig.web.asked == []


async def test_unknown_networks_and_numbers_out_of_range_are_invalid(rig: Rig) -> None:
    with pytest.raises(Invalid, match=r"1399811149 \(solana\), 1 \(ethereum\)"):
        await rig.tokens.trending(7)
    asks = [
        rig.tokens.trending(SOLANA, 0),
        rig.tokens.trending(SOLANA, 101),
        rig.tokens.pumpfun(51, 24),
        rig.tokens.pumpfun(0, 24),
        rig.tokens.pumpfun(10, 0),
        rig.tokens.pumpfun(10, 73),
        rig.tokens.token(7, PEPE),
    ]
    for ask in asks:
        with pytest.raises(Invalid):
            await ask
    assert rig.web.asked == []
