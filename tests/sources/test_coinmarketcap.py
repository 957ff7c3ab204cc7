"""CoinMarketCap, asked through a function that stands for HTTP."""

from collections.abc import Mapping, Sequence

import pytest

from openoutcry.errors import Unavailable
from openoutcry.sources.coinmarketcap import CoinMarketCap
from openoutcry.transport import Response, TransportError


class Http:
    """Answers as told, and remembers."""

    def __init__(self, answer: Response | TransportError) -> None:
        self._answer = answer
        self.asked: list[tuple[str, str, Sequence[tuple[str, str]], Mapping[str, str]]] = []

    async def send(
        self,
        method: str,
        url: str,
        *,
        query: Sequence[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> Response:
        self.asked.append((method, url, query, headers or {}))
        if isinstance(self._answer, TransportError):
            raise self._answer
        return self._answer


async def test_it_asks_with_the_key_and_gives_the_answer_whatever_its_status() -> None:
    http = Http(Response(429, {}, b"{}"))
    answer = await CoinMarketCap(http, "http://cmc.example/", "k-1").fetch("/v1/x", [("start", "1")])
    assert (answer.status, answer.body) == (429, b"{}")
    assert http.asked == [
        (
            "GET",
            "http://cmc.example/v1/x",
            [("start", "1")],
            {"X-CMC_PRO_API_KEY": "k-1", "Accept": "application/json"},
        )
    ]


async def test_out_of_reach_is_said_without_its_address() -> None:
    source = CoinMarketCap(Http(TransportError("ConnectTimeout")), "http://cmc.example", "k-1")
    with pytest.raises(Unavailable) as refused:
        await source.fetch("/v1/x", [])
    assert (refused.value.who, refused.value.text) == ("coinmarketcap", "ConnectTimeout")
