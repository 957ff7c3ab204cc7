"""Outside sources that are no exchange: catalogues and news. Pages in, items out."""

from collections.abc import Callable, Mapping

from openoutcry.sources.coindesk import CoinDesk
from openoutcry.sources.feeds import Feeds
from openoutcry.sources.source import NewsSource

NEWS_SOURCES: Mapping[str, Callable[[], NewsSource]] = {
    "feeds": Feeds,
    "coindesk": CoinDesk,
}
