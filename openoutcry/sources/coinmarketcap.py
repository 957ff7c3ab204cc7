"""CoinMarketCap: its answers as they are, asked with our key.

https://coinmarketcap.com/api/documentation/v1/

    GET /v1/cryptocurrency/categories?start=1&limit=100     X-CMC_PRO_API_KEY: ...
    {"status": {"error_code": 0, ...}, "data": [{"id": "605e2ce9d41eae1066535f7c", "name": "A16Z Portfolio", ...}]}
"""

from collections.abc import Sequence

from openoutcry.errors import Unavailable
from openoutcry.transport import Http, Response, TransportError


class CoinMarketCap:
    """Asks CoinMarketCap at `url` with `key`."""

    def __init__(self, http: Http, url: str, key: str) -> None:
        self._http = http
        self._url = url.rstrip("/")
        self._headers = {"X-CMC_PRO_API_KEY": key, "Accept": "application/json"}

    async def fetch(self, path: str, query: Sequence[tuple[str, str]]) -> Response:
        """Its answer, whatever the status. Raises Unavailable."""
        try:
            return await self._http.send("GET", self._url + path, query=query, headers=self._headers)
        except TransportError as e:
            raise Unavailable("coinmarketcap", str(e)) from e
