"""What an article is about, by rules: words that are good or bad for a market, names of coins, words of a topic.

    score = (good - bad) / (good + bad + 2)          positive from 0.15 on, negative from -0.15 on

A negation turns the next NEGATED_WORDS_MAX words of its clause round: "fails to gain" is bad, "denies fraud" good. Phrases
go before words: a record high is good, a record alone says nothing. Coins are known by `$SOL`, `(SOL)`, their symbol in
capitals unless it is a word, and their name; the names that are words too only where what is behind them says so.
"""

import re
from collections.abc import Iterator, Mapping

from openoutcry.sources.feeds import shortened
from openoutcry.sources.source import Item, Label, Opinion

BY = "rules"
SUMMARY_CHARS_MAX = 280
EXCERPT_CHARS_MAX = 600
TICKERS_MAX = 10
LABEL_AT = 0.15
NEGATED_WORDS_MAX = 3
# What stands in the title counts so many times.
TITLE_WEIGHT = 3

# -- coins: symbol -> names, as they are written

COINS: Mapping[str, tuple[str, ...]] = {
    "BTC": ("Bitcoin",), "ETH": ("Ethereum", "Ether"), "XRP": ("Ripple",), "SOL": ("Solana",), "BNB": ("Binance Coin", "BNB Chain"),
    "DOGE": ("Dogecoin",), "ADA": ("Cardano",), "TRX": ("Tron", "TRON"), "AVAX": ("Avalanche",), "LINK": ("Chainlink",),
    "DOT": ("Polkadot",), "LTC": ("Litecoin",), "BCH": ("Bitcoin Cash",), "SHIB": ("Shiba Inu",), "TON": ("Toncoin",),
    "XLM": ("Stellar Lumens", "Stellar"), "SUI": ("Sui",), "HBAR": ("Hedera",), "HYPE": ("Hyperliquid",), "XMR": ("Monero",),
    "UNI": ("Uniswap",), "AAVE": ("Aave",), "PEPE": ("Pepecoin",), "NEAR": ("NEAR Protocol", "Near Protocol"),
    "APT": ("Aptos",), "ICP": ("Internet Computer",), "ETC": ("Ethereum Classic",), "POL": ("Polygon",), "ARB": ("Arbitrum",),
    "OP": ("Optimism",), "ATOM": ("Cosmos Hub", "Cosmos"), "FIL": ("Filecoin",), "ALGO": ("Algorand",), "INJ": ("Injective",),
    "TAO": ("Bittensor",), "SEI": ("Sei Network",), "TIA": ("Celestia",), "JUP": ("Jupiter",), "ENA": ("Ethena",),
    "ONDO": ("Ondo Finance",), "MKR": ("MakerDAO",), "LDO": ("Lido",), "CRV": ("Curve Finance",), "ZEC": ("Zcash",),
    "XTZ": ("Tezos",), "BONK": ("Bonk",), "WIF": ("dogwifhat",), "TRUMP": ("Official Trump",), "USDT": ("Tether",),
    "USDC": ("USD Coin", "Circle's USDC"), "DAI": ("Dai stablecoin",), "WLD": ("Worldcoin",), "RUNE": ("THORChain",),
    "STX": ("Stacks",), "KAS": ("Kaspa",), "VET": ("VeChain",), "PUMP": ("Pump.fun", "pump.fun"), "PENDLE": ("Pendle",),
    "DYDX": ("dYdX",), "GRT": ("The Graph",), "SAND": ("The Sandbox",), "AXS": ("Axie Infinity",), "EOS": (),
}  # fmt: skip
# Symbols that are words or other abbreviations: `$OP` and `(OP)` alone mean the coin.
_WORDS = frozenset({"LINK", "DOT", "TON", "NEAR", "OP", "SUI", "HYPE", "TRUMP", "SAND", "RUNE", "PUMP", "ATOM", "POL", "APT", "ETC",
                    "JUP", "DAI", "VET", "ARB", "UNI", "ICP", "STX", "SEI", "TIA", "WIF", "ENA", "FIL"})  # fmt: skip
# Names that are words of the language: they mean the coin where one of _BEHIND follows.
_NAMES_OF_WORDS = frozenset({"Optimism", "Jupiter", "Stellar", "Avalanche", "Cosmos", "Stacks", "The Graph"})
# Written so and not otherwise; all other names also in small letters or capitals.
_PROPER = _NAMES_OF_WORDS | {
    "Ripple",
    "Tether",
    "Sui",
    "Tron",
    "TRON",
    "Lido",
    "Bonk",
    "Celestia",
    "Injective",
    "Pendle",
    "Polygon",
}
_BEHIND = (
    "['\u2019]s\\b|\\s+(?:(?:blockchain|network|mainnet|testnet|protocol|ecosystem|foundation|tokens?|coin|price|validators?|labs|dex|"
    "users|L1|L2|ETFs?)\\b|\\()"
)
_NAMES = {name.lower(): symbol for symbol, names in COINS.items() for name in names}


def _name(name: str) -> str:
    told = re.escape(name) if name in _PROPER else f"(?i:{re.escape(name)})"
    # A ripple effect is none of the company's.
    return f"{told}(?=(?i:{_BEHIND}))" if name in _NAMES_OF_WORDS else rf"{told}(?!\w|\.\w|\s+[Ee]ffect)"


# Longer names first: Bitcoin Cash is no Bitcoin.
_NAMED = re.compile(
    rf"(?<![\w$@/.])(?:{'|'.join(map(_name, sorted((n for names in COINS.values() for n in names), key=len, reverse=True)))})"
)
_MARKED = re.compile(r"\$([A-Za-z]{2,10})\b|\(\$?([A-Z]{2,10})\)")
_BARE = re.compile(rf"(?<![\w$.&/-])({'|'.join(sorted(COINS.keys() - _WORDS))})(?![\w&])")

# -- good and bad


def _words(text: str) -> list[str]:
    return text.split()


def _forms(verbs: str) -> Iterator[str]:
    """The verbs with their regular endings."""
    for verb in verbs.split():
        if verb.endswith("e"):
            yield from (verb, f"{verb}s", f"{verb}d", f"{verb[:-1]}ing")
        elif verb.endswith("y") and verb[-2] not in "aeiou":
            yield from (verb, f"{verb[:-1]}ies", f"{verb[:-1]}ied", f"{verb}ing")
        else:
            yield from (verb, f"{verb}es" if verb.endswith(("s", "sh", "ch", "x")) else f"{verb}s", f"{verb}ed", f"{verb}ing")  # fmt: skip


_GOOD = frozenset({
    *_forms("surge soar rally climb gain jump rocket skyrocket rebound recover advance outperform approve adopt boost strengthen "
            "expand accumulate accelerate succeed reclaim bounce top thrive greenlight"),
    *_words("""rise rises rose rising risen grow grows grew growing growth win wins won winning beat beats beating bull bulls bullish
    bullishness profit profits profitable profitability recovery inflow inflows approval approvals adoption breakthrough breakouts
    milestone partnership partnerships upside uptrend breakout strong stronger strongest strength success successful successfully
    confidence greenlit green-lights oversubscribed uptick bottomed momentum victory upbeat resilient resilience buyback buybacks
    topped topping"""),
})  # fmt: skip
_BAD = frozenset({
    *_forms("plunge tumble crash slump collapse decline fail exploit hack drain loot seize halt suspend reject warn accuse sue indict "
            "sanction liquidate downgrade weaken struggle dump delist arrest erase retreat crumble slash fine worsen falter plummet "
            "breach attack fear worry suffer"),
    *_words("""drop drops dropped dropping dip dips dipped dipping slip slips slipped slipping slide slides slid sliding sink sinks sank sunk
    sinking fall falls fell falling fallen lose loses lost losing loss losses bear bears bearish bearishness pessimism pessimistic
    outflow outflows hacker hackers hackings fraud fraudulent scam scams scammed scammer scammers theft thefts steal steals stole
    stolen stealing lawsuit lawsuits ban bans banned banning bankrupt bankruptcy insolvent insolvency attacker attackers vulnerability
    vulnerabilities phishing laundering ponzi panic crisis recession downturn downside downtrend weak weaker weakest weakness risk
    risks risky crackdown probe probes probed selloff selloffs sell-off sell-offs bleed bleeds bleeding bleak bloodbath capitulation
    layoff layoffs liquidation liquidations guilty convicted sentenced charged frozen freeze freezes froze turmoil uncertainty concern
    concerns concerned worries worried volatile depeg depegs depegged depegging shutdown shutters shuttered outage outages counterfeit
    illegal illicit extortion ransom ransomware kidnapping kidnapped suspicious manipulation violation violations violated"""),
})  # fmt: skip
_GOOD_PHRASES = (
    "all-time high", "all-time highs", "all time high", "record high", "record highs", "record inflows", "new high", "new highs",
    "golden cross", "short squeeze", "rate cut", "rate cuts", "cuts rates", "cut rates", "price target raised", "buy the dip",
    "buys the dip", "bottoms out", "bounces back", "back above", "breaks above", "climbs above", "flips bullish", "reclaims", "risk-on",
    "drops lawsuit", "drops case", "drops charges", "drops probe", "drops investigation", "dropped lawsuit", "funding round", "legal clarity", "regulatory clarity", "extreme greed", "recovers funds", "funds recovered",
)  # fmt: skip
_BAD_PHRASES = (
    "all-time low", "all-time lows", "record low", "record lows", "new low", "new lows", "death cross", "rug pull", "rug pulls",
    "pump and dump", "rate hike", "rate hikes", "raises rates", "sell off", "sells off", "breaks below", "drops below", "falls below",
    "bull trap", "long squeeze", "data leak", "private key leak", "class action", "wells notice", "shuts down", "shut down",
    "exit scam", "under investigation", "money laundering", "extreme fear", "risk-off", "goes offline", "files for bankruptcy",
    "bear market", "price target cut", "strong sell",
)  # fmt: skip
_NEGATIONS = frozenset(_words("""
    not no never without cannot neither nor hardly barely unlikely despite isn't doesn't don't didn't won't can't aren't wasn't couldn't
    wouldn't hasn't haven't deny denies denied denying dismiss dismisses dismissed dismissing avoid avoids avoided avert averts averted
    prevent prevents prevented fail fails failed failing reject rejects rejected refute refutes refuted"""))  # fmt: skip
# These turn round only what is bad: who ends a losing streak does well, and who ends a rally has no other word for it.
_NEGATIONS_OF_BAD = frozenset(
    _words("ease eases eased easing end ends ended ending lift lifts lifted overturn overturns overturned")
)
_PHRASED = re.compile(
    "|".join(re.escape(each) for each in sorted((*_GOOD_PHRASES, *_BAD_PHRASES), key=len, reverse=True))
)
_TOKEN = re.compile(rf"(?<![\w-])(?:{_PHRASED.pattern})(?![\w-])|[a-z]+(?:[-'][a-z]+)*|[.,;:!?()\u2014]")

# -- topics

_TOPICS: Mapping[str, re.Pattern[str]] = {
    # Texts are put into small letters before: a search that minds no case takes more than twice as long.
    topic: re.compile(rf"(?<![\w/-])(?:{'|'.join(words.lower().split(';'))})(?![\w-])")
    for topic, words in {
        "security": r"hack\w*;exploit\w*;stolen;theft;phishing;scam\w*;rug.?pull\w*;drain(?:ed|er|s);breach\w*;vulnerabilit\w+;malware;"
        r"ransom\w*;attackers?;lazarus;ponzi;private keys?;wrench attacks?;kidnap\w*",
        "regulation": r"SEC;CFTC;FCA;MiCA;regulat\w+;lawsuits?;court;judge;senate;senators?;congress;bill;lawmakers?;legislation;law;legal;"
        r"sanction\w*;ban(?:s|ned)?;licen[cs]es?;compliance;DOJ;prosecutors?;indict\w*;sues?;sued;tax\w*;AML;guilty;settlement;subpoena\w*;enforcement",
        "etf": r"ETFs?;ETPs?;exchange-traded;IBIT;FBTC;GBTC;spot fund",
        "stablecoins": r"stablecoins?;USDT;USDC;USDe;Tether;Circle;depeg\w*;PYUSD;DAI;peg",
        "mining": r"min(?:er|ers|ing);hash ?rate;hash ?price;ASICs?;difficulty;bitmain;halving",
        "defi": r"defi;DEX(?:es)?;lending;liquidity pools?;yield\w*;staking;restaking;TVL;AMM;uniswap;aave;lido;perp\w*;vaults?;liquid staking",
        "nft": r"NFTs?;ordinals?;inscriptions?;collectibles?;opensea;metaverse;gamefi;blockchain games?",
        "macro": r"fed;federal reserve;FOMC;powell;inflation;CPI;PPI;interest rates?;rate cuts?;rate hikes?;jobs report;payrolls?;tariffs?;treasur(?:y|ies) yields?;"
        r"GDP;recession;dollar index;DXY;central banks?;ECB;geopolitic\w*",
        "technology": r"upgrade\w*;hard ?fork\w*;soft ?fork\w*;mainnet;testnet;rollups?;layer[- ]?[12];L2s?;zk\w*;zero-knowledge;protocol;developers?;"
        r"nodes?;validators?;consensus;outages?;EIPs?;BIPs?;scaling;smart contracts?;client release",
        "business": r"raises?;funding;series [a-e];acqui\w+;merger;IPO;partnership;partners with;hires?;appoints?;CEO;earnings;revenue;treasury;"
        r"balance sheet;layoffs?;startup;valuation;invests?;investment",
        "markets": r"price\w*;rall(?:y|ies|ied);surg\w+;plung\w+;soar\w*;bull\w*;bear\w*;support;resistance;all-time high;ATH;traders?;trading;liquidat\w+;"
        r"open interest;funding rates?;futures;options;whales?;volatility;sell-?offs?;market cap;outflows?;inflows?;chart;correction;dips?;gains?;falls?;rises?;slump\w*",
    }.items()
}
# A sentence ends where the next begins with a capital, a digit or a quotation mark.
_SENTENCES = re.compile(r"(?:(?<=[.!?])|(?<=[.!?][\"\u201d')]))\s+(?=[A-Z0-9\"\u201c(])")
_ABBREVIATED = re.compile(r"(?:\b(?:[A-Z]|Mr|Mrs|Ms|Dr|Inc|Corp|Ltd|Co|vs|No|St|U\.S|U\.K|E\.U|approx|est))\.$")


def judged(item: Item) -> Opinion:
    """What the rules make of an article."""
    excerpt = shortened(item.text, EXCERPT_CHARS_MAX)
    score = score_of(f"{item.title}. {excerpt}")
    return Opinion(
        label=label_of(score),
        score=score,
        tickers=tickers_in(item.title, excerpt, *item.tags),
        category=category_of(item.title, " . ".join((excerpt, *item.tags))),
        summary=summary_of(item.text),
        by=BY,
    )


def score_of(text: str) -> float:
    """Between -1 and 1."""
    good = bad = 0
    negated = negated_bad = 0
    for token in _TOKEN.findall(text.lower().replace("\u2019", "'").replace("\u2013", "-")):
        if not token[0].isalpha():
            negated = negated_bad = 0
            continue
        is_good, is_bad = token in _GOOD_TOLD, token in _BAD_TOLD
        turned = (negated > 0 and is_good) or (max(negated, negated_bad) > 0 and is_bad)
        if token in _NEGATIONS_OF_BAD:
            negated_bad = NEGATED_WORDS_MAX + 1
        elif token in _NEGATIONS:
            negated = NEGATED_WORDS_MAX + 1
        good += is_bad if turned else is_good
        bad += is_good if turned else is_bad
        negated, negated_bad = max(negated - 1, 0), max(negated_bad - 1, 0)
    return round((good - bad) / (good + bad + 2), 4)


def label_of(score: float) -> Label:
    """What a score is called."""
    if score >= LABEL_AT:
        return "positive"
    return "negative" if score <= -LABEL_AT else "neutral"


def tickers_in(*texts: str) -> tuple[str, ...]:
    """Symbols of the coins that are named, in the order in which they are, TICKERS_MAX at most."""
    found: dict[str, None] = {}
    for text in texts:
        shouted = text.isupper()
        hits = [(hit.start(), _NAMES[hit[0].lower()]) for hit in _NAMED.finditer(text)]
        hits += [(hit.start(), (hit[1] or hit[2]).upper()) for hit in _MARKED.finditer(text)]
        hits += [(hit.start(), hit[1]) for hit in _BARE.finditer(text) if not shouted or text == hit[1]]
        found.update((symbol, None) for _, symbol in sorted(hits) if symbol in COINS)
    return tuple(found)[:TICKERS_MAX]


def category_of(title: str, text: str) -> str:
    """The topic that the title names most; where it names none, the one of most words, those of the title counting more.

    Prices move in nearly every title: markets are the topic where there is no other in it.
    """
    title, text = title.lower(), text.lower()
    named = {topic: len(words.findall(title)) for topic, words in _TOPICS.items()}
    told = {topic: len(words.findall(text)) for topic, words in _TOPICS.items()}
    clear = [topic for topic, count in named.items() if count and topic != "markets"]
    if clear:
        return max(clear, key=lambda topic: (named[topic], told[topic]))
    best = max(told, key=lambda topic: TITLE_WEIGHT * named[topic] + told[topic])
    return best if named[best] or told[best] else "general"


def summary_of(text: str) -> str:
    """The first sentences, as many as fit; of a first one that is too long, the beginning."""
    told = ""
    for sentence in _sentences(text[: 4 * SUMMARY_CHARS_MAX]):
        longer = f"{told} {sentence}".lstrip()
        if len(longer) > SUMMARY_CHARS_MAX:
            break
        told = longer
    return told or shortened(text, SUMMARY_CHARS_MAX)


def _sentences(text: str) -> Iterator[str]:
    begun = ""
    for piece in _SENTENCES.split(text):
        begun = f"{begun} {piece}".lstrip()
        if not _ABBREVIATED.search(begun):
            yield begun
            begun = ""
    if begun:
        yield begun


_GOOD_TOLD = _GOOD | frozenset(_GOOD_PHRASES)
_BAD_TOLD = _BAD | frozenset(_BAD_PHRASES)
