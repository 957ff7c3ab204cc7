"""Other people's answers, handed on untouched: Binance's and CoinMarketCap's, for pages in a browser.

Paths are fixed and parameters checked by the routes. An answer is given again for a moment, and asked for once however
many want it at the same time. A refusal of the source keeps its status: `{"detail": <its JSON, or its text>}`.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from typing import Protocol

import msgspec
from starlette.responses import Response

from openoutcry.api.dialect import Doors
from openoutcry.api.takashi import wire
from openoutcry.api.takashi.names import EXCHANGES
from openoutcry.clock import NS, Clock
from openoutcry.errors import NotConfigured, Unavailable

BINANCE_FRESH_S = 1.0
# CoinMarketCap counts every call against the key, and renews its figures once a minute.
COINMARKETCAP_FRESH_S = 60.0
ANSWERS_MAX = 64
DETAIL_CHARS_MAX = 500


class Given(Protocol):
    """A source's answer, whichever port it came through."""

    @property
    def status(self) -> int: ...
    @property
    def headers(self) -> Mapping[str, str]: ...
    @property
    def body(self) -> bytes: ...


class Shared:
    """One question at a time for the same thing; a good answer serves whoever asks within `fresh_s` after."""

    def __init__(self, clock: Clock, fresh_s: float) -> None:
        self._clock = clock
        self._fresh_ns = round(fresh_s * NS)
        self._asking: dict[Hashable, asyncio.Task[Given]] = {}
        self._known: OrderedDict[Hashable, tuple[int, Given]] = OrderedDict()

    async def get(self, key: Hashable, ask: Callable[[], Awaitable[Given]]) -> Given:
        """The answer; what `ask` raises is raised for all who wait, and not kept."""
        known = self._known.get(key)
        if known is not None and self._clock.now_ns() - known[0] < self._fresh_ns:
            return known[1]
        task = self._asking.get(key)
        if task is None:
            task = self._asking[key] = asyncio.create_task(self._ask(key, ask))
        # A caller who leaves must not take the answer from the others.
        return await asyncio.shield(task)

    async def _ask(self, key: Hashable, ask: Callable[[], Awaitable[Given]]) -> Given:
        try:
            answer = await ask()
        finally:
            del self._asking[key]
        if answer.status < 400:
            self._known[key] = (self._clock.now_ns(), answer)
            self._known.move_to_end(key)
            if len(self._known) > ANSWERS_MAX:
                self._known.popitem(last=False)
        return answer


class Proxy:
    """The two sources."""

    def __init__(self, doors: Doors) -> None:
        self._doors = doors
        self._binance = Shared(doors.clock, BINANCE_FRESH_S)
        self._coinmarketcap = Shared(doors.clock, COINMARKETCAP_FRESH_S)

    async def binance(self, path: str, query: Sequence[tuple[str, str]], weight: int) -> Response:
        """What Binance futures says; `weight` is what the question costs there."""
        market = self._doors.market
        return await _handed_on(
            "Binance",
            self._binance.get((path, *query), lambda: market.raw(EXCHANGES["binance"], path, query, weight)),
        )

    async def coinmarketcap(self, path: str, query: Sequence[tuple[str, str]]) -> Response:
        """What CoinMarketCap says. Raises NotConfigured."""
        catalogue = self._doors.catalogues.get("coinmarketcap")
        if catalogue is None:
            raise NotConfigured("CoinMarketCap API key not configured")
        return await _handed_on(
            "CoinMarketCap", self._coinmarketcap.get((path, *query), lambda: catalogue.fetch(path, query))
        )


async def _handed_on(source: str, asking: Awaitable[Given]) -> Response:
    try:
        answer = await asking
    except Unavailable as e:
        return wire.detail(503, f"Failed to connect to {source} API: {e.text}", wire.retry_after(e))
    if answer.status < 400:
        return wire.json(answer.body, answer.status)
    wait = answer.headers.get("retry-after")
    return wire.detail(answer.status, _said(answer.body), {"Retry-After": wait} if wait and wait.isdigit() else None)


def _said(body: bytes) -> object:
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return body.decode(errors="replace")[:DETAIL_CHARS_MAX]
