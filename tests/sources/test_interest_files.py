"""Files of CME's open interest: good rows are taken, bad ones are refused with their line, and no file does worse."""

from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openoutcry.errors import Unreadable
from openoutcry.events import NS, OpenInterest
from openoutcry.instrument import Exchange, Instrument, Kind
from openoutcry.sources.interest_files import (
    EXCHANGES,
    FILE_BYTES_MAX,
    INSTRUMENTS_MAX,
    LINE_CHARS_MAX,
    REFUSED_MAX,
    ROWS_MAX,
    Sheet,
    read,
)

NOW_NS = 1_795_179_620 * NS  # 2026-11-20 13:00:20 UTC
DAY_NS = 1_795_132_800 * NS  # 2026-11-20 00:00:00 UTC
HEADER = "time,symbol,coin,open_interest,value,price\n"
SIZED = "time,symbol,coin,open_interest,value,price,contract_size\n"
SAMPLE = Path(__file__).parents[2] / "docs" / "samples" / "cme-open-interest.csv"


def told(text: str) -> Sheet:
    return read(text.encode(), NOW_NS)


def refusal(row: str, header: str = HEADER) -> str:
    """Why that row is not taken, while the good ones around it are."""
    good = "2026-11-1{},BTC,BTC,1,,\n" if header == HEADER else "2026-11-1{},BTC,BTC,1,,,5\n"
    sheet = told(header + good.format(1) + row + "\n" + good.format(2))
    assert len(sheet.samples) == 2
    (refused,) = sheet.refused
    assert refused.line == 3
    return refused.why


def test_rows_become_samples_in_coins_and_a_listing_of_futures() -> None:
    sheet = told(
        SIZED + "2026-11-20,BTC,BTC,31250,9875000000,63200.5,5\n2026-11-20T08:30:00.25+02:00,MBT,BTC,24100,,,0.1\n"
    )
    assert sheet == Sheet(
        instruments=tuple(
            Instrument(
                venue="cme",
                symbol=symbol,
                kind=Kind.FUTURE,
                coin="BTC",
                quote="USD",
                settle="USD",
                tick_size=Decimal("1e-8"),
                lot_size=Decimal("1e-8"),
                contract_size=Decimal(size),
            )
            for symbol, size in (("BTC", "5"), ("MBT", "0.1"))
        ),
        samples=(
            OpenInterest(
                "cme:BTC", DAY_NS, NOW_NS, Decimal(156_250), Decimal(9_875_000_000), Decimal(31_250), Decimal("63200.5")
            ),
            OpenInterest(
                "cme:MBT", DAY_NS + 23_400_250_000_000, NOW_NS, Decimal("2410.0"), None, Decimal(24_100), None
            ),
        ),
        refused=(),
        refused_in_all=0,
    )


def test_without_a_contract_size_open_interest_counts_coins() -> None:
    (sample,) = told(HEADER + "2026-11-20,ETH,ETH,12.5,1,2\n").samples
    assert (sample.size, sample.contracts) == (Decimal("12.5"), None)


def test_a_product_of_long_numbers_is_exact() -> None:
    (sample,) = told(SIZED + f"2026-11-20,ETH,ETH,{'9' * 15}.{'9' * 15},,,{'9' * 15}.{'9' * 15}\n").samples
    assert int(str(sample.size).replace(".", "")) == (10**30 - 1) ** 2


def test_columns_stand_in_any_order_and_others_are_passed_over() -> None:
    text = '\ufeffprice, coin ,note,symbol,open_interest,value,time\r\n7,BTC,"a, b",BTC,3,4,2026-11-20\r\n\r\n'
    sheet = told(text)
    assert sheet.refused == ()
    (sample,) = sheet.samples
    assert (sample.price, sample.size, sample.value) == (Decimal(7), Decimal(3), Decimal(4))
    assert sample.event_ns == DAY_NS


def test_files_are_told_as_cme() -> None:
    assert EXCHANGES == {Kind.FUTURE: (Exchange.CME,)}


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ("2026-11-20,BTC,BTC,1,2", "5 cells below 6 columns"),
        ("2026-11-20,BTC,BTC,1,2,3,4", "7 cells"),
        ("2026-11-20,BTC,BTC,,2,3", "open_interest is no number"),
        ("2026-11-20,BTC,BTC,NaN,2,3", "open_interest is no number"),
        ("2026-11-20,BTC,BTC,-1,2,3", "open_interest is no number"),
        ("2026-11-20,BTC,BTC,1e5,2,3", "open_interest is no number"),
        ("2026-11-20,BTC,BTC,1_000,2,3", "open_interest is no number"),
        ("2026-11-20,BTC,BTC,\u0661,2,3", "open_interest is no number"),
        ("2026-11-20,BTC,BTC,1234567890123456,2,3", "open_interest is no number"),
        ("2026-11-20,BTC,BTC,1,Infinity,3", "value is no number"),
        ("2026-11-20,BTC,BTC,1,2,-3", "price is no number"),
        ("2026-11-20,BTC,BTC,1,2,0.0", "a price of nothing"),
        ("1969-12-31,BTC,BTC,1,2,3", "time before"),
        ("2026-11-21,BTC,BTC,1,2,3", "in the future"),
        ("9999-12-31T23:59:59-23:59,BTC,BTC,1,2,3", "in the future"),
        ("0001-01-01T00:00:00+23:59,BTC,BTC,1,2,3", "time before"),
        ("2026-02-30,BTC,BTC,1,2,3", "day is out of range"),
        ("2026-11-20T25:00:00Z,BTC,BTC,1,2,3", "hour must be"),
        ("2026-11-20T12:00:00,BTC,BTC,1,2,3", "a day, or a time with its offset"),
        ("1795132800,BTC,BTC,1,2,3", "a day, or a time with its offset"),
        (",BTC,BTC,1,2,3", "a day, or a time with its offset"),
        ("2026-11-20,,BTC,1,2,3", "a symbol of letters"),
        ("2026-11-20,B:C,BTC,1,2,3", "a symbol of letters"),
        ("2026-11-20,BTC,btc,1,2,3", "a coin in capitals"),
        ("2026-11-20,BTC,ETH,1,2,3", "BTC had another coin"),
        ("2026-11-11,BTC,BTC,1,2,3", "the same time and symbol"),
        ('2026-11-20,"BTC,BTC,1,2,3', "no CSV"),
        ("2026-11-20,BTC,BTC,1,2," + "3" * LINE_CHARS_MAX, "a line of more than"),
    ],
)
def test_a_bad_row_is_refused_with_its_line_and_the_others_are_taken(row: str, why: str) -> None:
    assert why in refusal(row)


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ("2026-11-20,BTC,BTC,1,2,3,0", "a contract of nothing"),
        ("2026-11-20,BTC,BTC,1,2,3,-5", "contract_size is no number"),
        ("2026-11-20,BTC,BTC,1,2,3,0.1", "another coin or contract size"),
        ("2026-11-20,BTC,BTC,1,2,3,", "another coin or contract size"),
    ],
)
def test_a_contract_has_one_size(row: str, why: str) -> None:
    assert why in refusal(row, SIZED)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "no column time"),
        (b"<html><body>We will be back soon</body></html>", "no column"),
        (b"\xff\xfe\x00t", "not UTF-8"),
        (b"time,symbol,coin,open_interest,value\n", "no column price"),
        (b"time,symbol,coin,open_interest,value,price,price\n", "two columns of one name"),
        (b'time,"symbol\n', "no header"),
        (b"t" * (LINE_CHARS_MAX + 1), "no header"),
        (b"\n" * (ROWS_MAX + 2), "rows"),
        (b" " * (FILE_BYTES_MAX + 1), "bytes"),
    ],
)
def test_what_is_no_such_file_at_all_is_refused_whole(body: bytes, why: str) -> None:
    with pytest.raises(Unreadable, match=why):
        read(body, NOW_NS)


def test_symbols_and_refusals_are_bounded() -> None:
    rows = [f"2026-11-20,S{n},BTC,1,,\n" for n in range(INSTRUMENTS_MAX + REFUSED_MAX + 5)]
    sheet = told(HEADER + "".join(rows))
    assert len(sheet.instruments) == len(sheet.samples) == INSTRUMENTS_MAX
    assert sheet.refused_in_all == REFUSED_MAX + 5
    assert len(sheet.refused) == REFUSED_MAX
    assert sheet.refused[0].line == INSTRUMENTS_MAX + 2


def test_the_sample_of_the_documentation_is_read_whole() -> None:
    sheet = read(SAMPLE.read_bytes(), NOW_NS)
    assert sheet.refused == ()
    assert {each.symbol for each in sheet.instruments} == {"BTC", "MBT", "ETH"}
    assert all(each.value == each.size * each.price for each in sheet.samples if each.value and each.price)


CELLS = st.one_of(
    st.sampled_from(["2026-11-20", "2026-11-20T00:00:00Z", "BTC", "5", "0", "NaN", "-1", '"', "\r", "\x00", ""]),
    st.text(max_size=8),
)


@given(st.lists(st.lists(CELLS, min_size=5, max_size=8), max_size=6), st.binary(max_size=40))
def test_no_file_does_worse_than_unreadable(rows: list[list[str]], rubbish: bytes) -> None:
    for body in ((SIZED + "\n".join(",".join(row) for row in rows)).encode("utf-8", "replace"), rubbish):
        try:
            sheet = read(body, NOW_NS)
        except Unreadable:
            continue
        for sample in sheet.samples:
            assert sample.size.is_finite()
            assert sample.size >= 0
            assert sample.event_ns <= NOW_NS + 3_600 * NS
