"""The rules say of headlines what a reader would."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openoutcry.llm.news_rules import (
    COINS,
    LABEL_AT,
    SUMMARY_CHARS_MAX,
    TICKERS_MAX,
    category_of,
    judged,
    label_of,
    score_of,
    summary_of,
    tickers_in,
)
from openoutcry.sources.source import CATEGORIES, Item


def an_item(title: str, text: str = "", tags: tuple[str, ...] = ()) -> Item:
    return Item(guid="g", url="https://a.example/1", title=title, source="A", text=text, published_ns=1, tags=tags)


HEADLINES = [
    ("Bitcoin surges past $120,000 to a new all-time high", "positive", "BTC", "markets"),
    ("Ether slumps 8% as liquidations top $900 million", "negative", "ETH", "markets"),
    ("SEC approves first spot Solana ETF", "positive", "SOL", "regulation"),
    ("Spot bitcoin ETFs see $1.2B of inflows in a day", "positive", "BTC", "etf"),
    ("Hackers drain $40M from DeFi lender in flash loan exploit", "negative", "", "security"),
    ("Judge dismisses fraud lawsuit against Uniswap Labs", "positive", "UNI", "regulation"),
    ("Ripple effects of the banking crisis reach Europe", "negative", "", "general"),
    ("Ripple wins court case against the SEC as XRP rallies", "positive", "XRP", "regulation"),
    ("Solana fails to gain ground after outage", "negative", "SOL", "technology"),
    ("Optimism fades among traders", "neutral", "", "markets"),
    ("Optimism mainnet upgrade goes live (OP)", "neutral", "OP", "technology"),
    ("Fed holds interest rates steady, Powell says", "neutral", "", "macro"),
    ("Bitcoin holds above $100K after Fed rate cut", "positive", "BTC", "macro"),
    ("Tether freezes $20M USDT linked to theft", "negative", "USDT", "stablecoins"),
    ("Bitcoin miners' hash rate reaches a record high", "positive", "BTC", "mining"),
    ("Exchange denies insolvency rumors", "positive", "", "general"),
    ("No signs of recovery for altcoins", "negative", "", "general"),
    ("Bored Ape NFT sales plunge 60% in October", "negative", "", "nft"),
    ("Startup raises $50M Series B from a16z", "neutral", "", "business"),
    ("Congress delays vote on stablecoin bill", "neutral", "", "regulation"),
    ("Bitcoin Cash and Litecoin jump on halving hopes", "positive", "BCH,LTC", "mining"),
    ("$SOL, $WIF and $PEPE lead memecoin rally", "positive", "SOL,WIF,PEPE", "markets"),
    ("Sol Campbell joins club as coach", "neutral", "", "general"),
    ("THE BIG LINK BETWEEN ART AND MONEY", "neutral", "", "general"),
    ("Chainlink (LINK) breaks above resistance", "positive", "LINK", "markets"),
    ("Avalanche kills three skiers in the Alps", "neutral", "", "general"),
    ("Avalanche blockchain hit by phishing scam", "negative", "AVAX", "security"),
    ("Dogecoin ends five-day losing streak", "positive", "DOGE", "general"),
    ("BTC/USDT open interest falls to yearly low", "negative", "BTC", "markets"),
    ("Strategy buys 1,000 more bitcoin for its treasury", "neutral", "BTC", "business"),
    ("Bitcoin drops as liquidations rise", "negative", "BTC", "markets"),
    ("Binance sued over money laundering as BNB tumbles", "negative", "BNB", "regulation"),
    ("SEC drops case against Coinbase", "positive", "", "regulation"),
    ("Bitcoin falls despite strong ETF inflows", "negative", "BTC", "etf"),
]


@pytest.mark.parametrize(("title", "label", "tickers", "category"), HEADLINES)
def test_a_headline_is_judged_as_a_reader_would(title: str, label: str, tickers: str, category: str) -> None:
    told = judged(an_item(title))
    assert (told.label, ",".join(told.tickers), told.category) == (label, tickers, category)
    assert told.by == "rules"


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("Nothing at all", 0.0),
        ("Bitcoin surges", 0.3333),
        ("Bitcoin surges and soars and rallies", 0.6),
        ("surges, crashes", 0.0),
        ("two good: gain and growth, one bad: theft", 0.2),
        ("three good gain growth win, two bad theft scam", 0.1429),
        ("not a gain", -0.3333),
        ("not in any way at all a gain", 0.3333),
        ("not today. A gain", 0.3333),
        ("no fraud", 0.3333),
        ("doesn\u2019t fear losses", 0.5),
        ("record", 0.0),
        ("record inflows", 0.3333),
        ("record outflows", -0.3333),
        ("airdrop season", 0.0),
        ("all-time high", 0.3333),
        ("Bears", -0.3333),
    ],
)
def test_the_score_is_counted(text: str, score: float) -> None:
    assert score_of(text) == score


@pytest.mark.parametrize(
    ("score", "label"),
    [(LABEL_AT, "positive"), (0.1499, "neutral"), (0.0, "neutral"), (-0.1499, "neutral"), (-LABEL_AT, "negative")],
)
def test_a_score_has_a_name(score: float, label: str) -> None:
    assert label_of(score) == label


@pytest.mark.parametrize(
    ("text", "tickers"),
    [
        ("the sol of mars, a near miss, one link, dot by dot", ""),
        ("SOL, ETH and BTC", "SOL,ETH,BTC"),
        ("$sol and $Eth but not $SOLX", "SOL,ETH"),
        ("BITCOIN AND SOLANA SOAR", "BTC,SOL"),
        ("BTC", "BTC"),
        ("THE ADA WAS PASSED IN 1990", ""),
        ("ethereum, then Bitcoin, then ether again", "ETH,BTC"),
        ("Bitcoin Cash", "BCH"),
        ("bitcoiners, Ethereumish, WBTC and stETH", ""),
        ("Bitcoin-backed loans at bitcoin.org", "BTC"),
        ("AT&T and S&P OP-ED", ""),
        ("NEAR the end; NEAR Protocol and $NEAR", "NEAR"),
        ("Stellar results for Jupiter's token", "JUP"),
        ("costs $100 or $1B", ""),
        ("", ""),
    ],
)
def test_coins_are_found_and_words_are_not(text: str, tickers: str) -> None:
    assert ",".join(tickers_in(text)) == tickers


def test_tags_of_the_source_name_coins_as_well() -> None:
    assert judged(an_item("A look back", tags=("Solana", "BTC"))).tickers == ("SOL", "BTC")


def test_no_more_coins_than_allowed_are_told() -> None:
    assert len(tickers_in(" ".join(f"${symbol}" for symbol in COINS))) == TICKERS_MAX


def test_what_the_title_does_not_say_the_text_says() -> None:
    assert category_of("The week in review", "A court and a judge and a lawsuit, and an NFT.") == "regulation"
    assert category_of("The week in review", "") == "general"


@pytest.mark.parametrize(
    ("text", "summary"),
    [
        ("", ""),
        ("One sentence without an end", "One sentence without an end"),
        ("First. Second! Third? Fourth", "First. Second! Third? Fourth"),
        (f"First one. {'X' * 280}. Third.", "First one."),
        (f"Mr. Smith paid $4.5 million to U.S. Steel Inc. for it. {'Y' * 270}.",
         "Mr. Smith paid $4.5 million to U.S. Steel Inc. for it."),
        (f"Yes. It was sold by Mr. {'Y' * 270}.", "Yes."),
        (f'He said: "It is over." {"Then " * 60}', 'He said: "It is over."'),
        ("word " * 100, ("word " * 56).rstrip() + "\u2026"),
    ],
)  # fmt: skip
def test_the_summary_is_the_first_sentences(text: str, summary: str) -> None:
    assert summary_of(text) == summary


@given(st.text(max_size=400), st.text(max_size=2_000))
def test_whatever_is_said_the_opinion_is_one_that_can_be_told(title: str, text: str) -> None:
    told = judged(an_item(title, text))
    assert -1 < told.score < 1
    assert told.label == label_of(told.score)
    assert set(told.tickers) <= COINS.keys()
    assert told.category in CATEGORIES
    assert len(told.summary) <= SUMMARY_CHARS_MAX


@given(
    st.lists(
        st.sampled_from(["gain", "loss", "not", "denies", "ends", "bitcoin", ".", "record high", "fails"]),
        max_size=12,
    )
)
def test_the_score_is_that_of_a_reader_who_counts(words: list[str]) -> None:
    """The obvious way: each word on its own, looking back at the three before it in its clause."""
    text = " ".join(words)
    split = text.replace("record high", "record_high").split()
    good = bad = 0
    for at, word in enumerate(split):
        clause = split[:at]
        if "." in clause:
            clause = clause[len(clause) - clause[::-1].index(".") :]
        before = set(clause[-3:])
        value = {"gain": 1, "record_high": 1, "loss": -1, "fails": -1}.get(word, 0)
        if before & {"not", "denies", "fails"} or (value < 0 and "ends" in before):
            value = -value
        good, bad = good + (value > 0), bad + (value < 0)
    assert score_of(text) == round((good - bad) / (good + bad + 2), 4)
