"""What HyperORU's callers call venues, intervals, tasks and analyses."""

import pytest

from openoutcry.api.hyperoru.names import Names, id_number, id_text
from openoutcry.errors import Unavailable, UnknownInstrument, UnknownVenue
from openoutcry.instrument import Kind
from tests.api.points import World, listed


@pytest.fixture
def names(world: World) -> Names:
    return Names(world.market, "binance_futures")


def test_a_venue_is_named_in_any_case_and_the_servers_own_unless_it_is(names: Names) -> None:
    assert names.venue(None) == "binance_futures"
    assert names.venue(" CoinBase ") == "coinbase"
    assert names.venues(None) == ("binance_futures",)
    assert names.venues("ALL") == ["binance", "binance_futures", "cme", "coinbase", "deribit"]
    with pytest.raises(UnknownVenue, match="no exchange 'b\\?tstamp'; there are binance, binance_futures, cme"):
        names.venue("b\ntstamp")


async def test_coins_are_made_once_for_each_listing(world: World, names: Names) -> None:
    first = await names.coins("binance")
    assert await names.coins("binance") is first
    eth = listed("binance", "ETHUSDT", Kind.SPOT, "ETH")
    world.outside.listings["binance"] = {"ETHUSDT": eth}
    assert (await names.coins("binance")).of == {"ETH": eth}
    assert (await names.find("eth/usd", "binance")) is eth
    with pytest.raises(UnknownInstrument):
        await names.find("BTC", "binance")


async def test_an_instrument_has_its_coins_name_also_where_nobody_lists_it(world: World, names: Names) -> None:
    assert await names.coin("coinbase:BTC-USD") == "BTC"
    # As it is listed, and not as it is spelt.
    odd = listed("binance", "XBTUSDT", Kind.SPOT, "BTC")
    world.outside.listings["binance"] = {"XBTUSDT": odd}
    assert await names.coin("binance:XBTUSDT") == "BTC"
    assert await names.coin("binance:DOGEUSDT") == "DOGE"
    assert await names.coin("mtgox:BTC-USD") == "BTC"
    assert await names.coin("mtgox:PF_XBT") == "PF_XBT"
    world.outside.listings["deribit"] = {}
    world.outside.down = Unavailable("deribit", "down")
    assert await names.coin("deribit:ETH_USDC") == "ETH"


def test_intervals_are_those_built_here_and_those_of_the_venue(names: Names) -> None:
    assert names.read("binance") == ["1m", "5m", "15m", "1h", "4h", "1d", "1w"]
    assert names.fetched("binance") == ["1m", "5m", "1h", "1d"]


@pytest.mark.parametrize(("number", "text"), [(1, "bf-001"), (42, "bf-042"), (999, "bf-999"), (12_345, "bf-12345")])
def test_ids_have_three_digits_or_more(number: int, text: str) -> None:
    assert id_text("bf", number) == text
    assert id_number("bf", text) == number
    assert id_number("analysis", text) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "bf",
        "bf-",
        "bf-1",
        "bf-0012",
        "bf-01 ",
        "bf-1_0",
        "xbf-001",
        "bf-" + "9" * 19,
        "bf-00\N{ARABIC-INDIC DIGIT ONE}",
    ],
)
def test_what_is_no_id_of_ours_has_no_number(text: str) -> None:
    assert id_number("bf", text) is None
