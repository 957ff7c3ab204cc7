"""News, played: papers that the world reads, two in RSS, one in Atom, and CoinDesk's list of what they all say.

    GET /courier/rss.xml        RSS 2.0, guids that are no addresses, links with utm_ parameters, text in CDATA
    GET /herald/feed            RSS 2.0, guids that are addresses, whole articles in content:encoded, pictures
    GET /ledger/atom.xml        Atom
    GET /news/v1/article/list   {"Data": [...], "Err": {}}, with what the Courier and the Herald print

An ETag and a Last-Modified stand in each answer; who brings them back gets 304 until something new is printed. Every
article, its time too, is a function of the seed, the paper and its number: what was printed once stays so. What one paper
prints, another takes over now and then, under the same title.
"""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime
from hashlib import blake2b
from typing import NamedTuple
from xml.sax.saxutils import escape, quoteattr

from openoutcry.simulator.faults import Faults
from openoutcry.simulator.kit import NS, Answer, Asked, Personality, json, whole
from openoutcry.simulator.noise import key, mix_one
from openoutcry.simulator.world import World

COINDESK_PATH = "/news/v1/article/list"
SHOWN = 20
LISTED_MAX = 100
# One in so many articles of the Herald was in the Courier before.
TAKEN_OVER = 6
SITE = "https://{}.example"


class Paper(NamedTuple):
    """One feed. An article is printed every `every_s`, some seconds early or late."""

    name: str
    path: str
    title: str
    every_s: int


PAPERS: Mapping[str, Paper] = {
    "courier": Paper("courier", "/courier/rss.xml", "The Courier: coins & markets", 420),
    "herald": Paper("herald", "/herald/feed", "Herald", 660),
    "ledger": Paper("ledger", "/ledger/atom.xml", "Daily Ledger", 900),
}
FEEDS = tuple(paper.path for paper in PAPERS.values())

COINS = ("Bitcoin", "Ethereum", "Solana", "XRP", "Dogecoin", "Cardano", "Chainlink", "Litecoin")
# What happens, and what is written about it.
STORIES = (
    ("{} climbs {}% as buyers return", "Buyers were back. {} gained {}% and traders spoke of strong demand."),
    ("{} slides {}% after a wave of liquidations", "It was a bad night for {}: a loss of {}% and many liquidations."),
    ("Spot {} ETF takes in ${} million", "Inflows into the {} fund came to ${} million. Its issuer speaks of a record."),
    ("Regulator opens probe into {} lender over ${} million", "The court will hear the {} case next month. ${} million are at stake."),
    ("{} developers set date for upgrade {}", "The mainnet of {} will run upgrade {} in spring, the developers said."),
    ("{} holders wait for the Fed, open interest at ${} billion", "Nobody moves before the Federal Reserve speaks. {} open interest: ${} billion."),
    ("Hackers drain {} bridge of ${} million", "An exploit let attackers take funds from a {} bridge. ${} million are gone."),
    ("{} treasury firm buys another ${} million", "The company adds to its {} holdings for ${} million, it told investors."),
)  # fmt: skip


class Printed(NamedTuple):
    """One article of a paper."""

    paper: Paper
    number: int
    at_ns: int
    title: str
    text: str
    coin: str

    @property
    def url(self) -> str:
        """Where it stands."""
        return f"{SITE.format(self.paper.name)}/{self.number}"


class News(Personality):
    """Papers nobody prints, at one address, and CoinDesk's data API beside them."""

    name = "news"

    def __init__(self, world: World, faults: Faults) -> None:
        super().__init__(world, faults)
        self._bodies: dict[str, tuple[int, Answer]] = {}

    async def answer(self, asked: Asked, now_ns: int) -> Answer:
        """A feed or the list; 304 for who has it."""
        if asked.method != "GET":
            return Answer(405, b"", (("Allow", "GET"),), "text/plain")
        if asked.path == COINDESK_PATH:
            return self._list(asked.query, now_ns)
        paper = next((paper for paper in PAPERS.values() if paper.path == asked.path), None)
        if paper is None:
            return Answer(404, b"", (), "text/plain")
        full = self._feed(paper, now_ns)
        return full if not _has(asked, full) else full._replace(status=304, body=b"")

    def printed(self, name: str, now_ns: int, count: int = SHOWN) -> list[Printed]:
        """The newest articles of a paper, newest first."""
        paper = PAPERS[name]
        newest = now_ns // (paper.every_s * NS)
        made = (self._article(paper, number) for number in range(newest, newest - count - 1, -1))
        return [article for article in made if article.at_ns <= now_ns][:count]

    def _article(self, paper: Paper, number: int) -> Printed:
        noise = key(self.world.seed, "news", paper.name)
        words = [mix_one(noise, number * 4 + place) for place in range(4)]
        at_ns = (number * paper.every_s + words[0] % (paper.every_s // 3)) * NS
        if paper.name == "herald" and words[1] % TAKEN_OVER == 0:
            # What the Courier printed a while before.
            taken = self._article(PAPERS["courier"], at_ns // (PAPERS["courier"].every_s * NS) - 2)
            return taken._replace(paper=paper, number=number, at_ns=at_ns)
        title, text = STORIES[words[2] % len(STORIES)]
        coin, amount = COINS[words[3] % len(COINS)], words[3] // 64 % 89 + 1
        return Printed(paper, number, at_ns, title.format(coin, amount), text.format(coin, amount), coin)

    def _feed(self, paper: Paper, now_ns: int) -> Answer:
        rows = self.printed(paper.name, now_ns)
        kept = self._bodies.get(paper.name)
        if kept is not None and kept[0] == rows[0].number:
            return kept[1]
        body = (_atom if paper.name == "ledger" else _rss)(paper, rows).encode()
        headers = (
            ("ETag", f'"{blake2b(body, digest_size=8).hexdigest()}"'),
            ("Last-Modified", _http_date(rows[0].at_ns)),
        )
        kind = "application/atom+xml" if paper.name == "ledger" else "application/rss+xml"
        answer = Answer(200, body, headers, f"{kind}; charset=utf-8")
        self._bodies[paper.name] = (rows[0].number, answer)
        return answer

    def _list(self, query: Mapping[str, str], now_ns: int) -> Answer:
        limit = whole(query.get("limit"), 10, 1, LISTED_MAX)
        if limit is None:
            error = {"type": 1, "message": "limit must be between 1 and 100", "other_info": {"param": "limit"}}
            return json({"Data": [], "Err": error}, 400)
        rows = [row for name in ("courier", "herald") for row in self.printed(name, now_ns, limit)]
        rows.sort(key=lambda row: (row.at_ns, row.paper.name), reverse=True)
        return json({"Data": [_listed(row) for row in rows[:limit]], "Err": {}})


def _has(asked: Asked, full: Answer) -> bool:
    """Whether whoever asks has what would be sent. Where both are said, the ETag decides."""
    told = dict(full.headers)
    if "if-none-match" in asked.headers:
        return asked.headers["if-none-match"] == told["ETag"]
    try:
        since = parsedate_to_datetime(asked.headers.get("if-modified-since", ""))
    except ValueError:
        return False
    return since >= parsedate_to_datetime(told["Last-Modified"])


def _rss(paper: Paper, rows: list[Printed]) -> str:
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        '<rss version="2.0" xmlns:content="http://purl.org/rss/1.0/modules/content/" xmlns:media="http://search.yahoo.com/mrss/">',
        f"<channel><title>{escape(paper.title)}</title><link>{SITE.format(paper.name)}</link>",
    ]
    for row in rows:
        lines += ["<item>", f"<title>{escape(row.title)}</title>", f"<pubDate>{_http_date(row.at_ns)}</pubDate>"]
        lines += _courier(row) if paper.name == "courier" else _herald(row)
        lines += [f"<category>{escape(row.coin)}</category>", "</item>"]
    return "\n".join([*lines, "</channel></rss>"])


def _courier(row: Printed) -> Iterator[str]:
    yield f"<link>{escape(row.url)}?utm_source=rss&amp;utm_medium=feed</link>"
    yield f'<guid isPermaLink="false">courier-{row.number}</guid>'
    yield f"<description><![CDATA[<p>{escape(row.text)}</p><p>More in the paper.</p>]]></description>"


def _herald(row: Printed) -> Iterator[str]:
    yield f"<link>{escape(row.url)}#top</link>"
    yield f"<guid>{escape(row.url)}</guid>"
    yield f"<content:encoded>{escape(f'<p>{escape(row.text)}</p>')}</content:encoded>"
    yield f'<media:content url={quoteattr(f"{row.url}.jpg")} medium="image"/>'


def _atom(paper: Paper, rows: list[Printed]) -> str:
    lines = [
        '<?xml version="1.0" encoding="utf-8"?>',
        f'<feed xmlns="http://www.w3.org/2005/Atom"><title>{escape(paper.title)}</title>',
        f"<updated>{_iso(rows[0].at_ns)}</updated>",
    ]
    for row in rows:
        lines += [
            f"<entry><id>tag:ledger.example,2026:{row.number}</id>",
            f'<title type="html">{escape(escape(row.title))}</title>',
            f'<link rel="alternate" href={quoteattr(row.url)}/>',
            f"<published>{_iso(row.at_ns)}</published><updated>{_iso(row.at_ns)}</updated>",
            f'<summary type="html">{escape(f"<p>{escape(row.text)}</p>")}</summary>',
            f"<category term={quoteattr(row.coin)}/></entry>",
        ]
    return "\n".join([*lines, "</feed>"])


def _listed(row: Printed) -> dict[str, object]:
    return {
        "TYPE": "121",
        "ID": key("article", row.paper.name, row.number) % 10**8,
        "GUID": row.url if row.paper.name == "herald" else f"courier-{row.number}",
        "PUBLISHED_ON": row.at_ns // NS,
        "IMAGE_URL": f"{row.url}.jpg",
        "TITLE": row.title,
        "URL": row.url,
        "BODY": row.text,
        "KEYWORDS": row.coin,
        "LANG": "EN",
        "SENTIMENT": "NEUTRAL",
        "STATUS": "ACTIVE",
        "SOURCE_DATA": {"NAME": row.paper.title},
        "CATEGORY_DATA": [{"NAME": row.coin.upper(), "CATEGORY": row.coin.upper()}],
    }


def _http_date(at_ns: int) -> str:
    return format_datetime(datetime.fromtimestamp(at_ns // NS, UTC), usegmt=True)


def _iso(at_ns: int) -> str:
    return datetime.fromtimestamp(at_ns // NS, UTC).isoformat().replace("+00:00", "Z")
