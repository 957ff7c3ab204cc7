"""Outside sources that are no exchange: catalogues and news. Pages in, items out."""

from collections.abc import Callable, Mapping

from openoutcry.sources.birdeye import Birdeye
from openoutcry.sources.codex import Codex
from openoutcry.sources.coindesk import CoinDesk
from openoutcry.sources.dexscreener import DexScreener
from openoutcry.sources.feeds import Feeds
from openoutcry.sources.geckoterminal import GeckoTerminal
from openoutcry.sources.pumpfun import PumpFun
from openoutcry.sources.source import NewsSource, TokenSource

# Asked in this order: those that need a key come first, where they have it.
TOKEN_SOURCES: Mapping[str, Callable[[], TokenSource]] = {
    "codex": Codex,
    "birdeye": Birdeye,
    "pumpfun": PumpFun,
    "geckoterminal": GeckoTerminal,
    "dexscreener": DexScreener,
}
# Each is made with the most bytes that an answer may have.
NEWS_SOURCES: Mapping[str, Callable[[int], NewsSource]] = {
    "feeds": Feeds,
    "coindesk": CoinDesk,
}
