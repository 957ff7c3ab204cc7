"""Codex, played: `filterTokens` by GraphQL, with a key. Only what was asked for is told, and unknown fields are refused.

https://docs.codex.io/api-reference/queries/filtertokens

    POST /graphql    Authorization: <key>    {"query": "query(…) {filterTokens(…) {results {priceUSD …}}}", "variables": {…}}
    {"data": {"filterTokens": {"results": [{"priceUSD": "0.2163", …}]}}}

Every key of KEY_CHARS_MIN characters or more is taken for valid. Of a query the selection is read, the rest is in its variables:
`tokens` (`address:network`), or `network` and `limit`.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import msgspec

from openoutcry.simulator.faults import Faults
from openoutcry.simulator.kit import NS, Answer, Asked, Personality, json
from openoutcry.simulator.limits import Pool
from openoutcry.simulator.tokens import SimToken, TokenMarket
from openoutcry.simulator.world import World

KEY_CHARS_MIN = 8
LIMIT_MAX = 200
_WORD = re.compile(r"[{}]|\w+")


class _Unknown(Exception):
    """A field that is none."""


class Codex(Personality):
    """https://graph.codex.io."""

    name = "codex"
    pools: ClassVar = {"calls": Pool(300, 60.0, None)}

    def __init__(self, world: World, faults: Faults) -> None:
        super().__init__(world, faults)
        self._market = TokenMarket(world)

    def cost(self, asked: Asked) -> tuple[str, int] | None:  # noqa: ARG002 - all cost the same
        """A call."""
        return "calls", 1

    async def answer(self, asked: Asked, now_ns: int) -> Answer:
        """The one query; the key is looked at first."""
        if len(asked.headers.get("authorization", "")) < KEY_CHARS_MIN:
            return json({"message": "Unauthorized"}, 401)
        if asked.path != "/graphql" or asked.method != "POST":
            return json({"message": "Not Found"}, 404)
        try:
            said = msgspec.json.decode(asked.body)
            query, about = str(said["query"]), dict(said.get("variables") or {})
            words = iter(_WORD.findall(query[query.index("results") :]))
        except (msgspec.DecodeError, ValueError, KeyError, TypeError, AttributeError):
            return _refusal("GRAPHQL_PARSE_FAILED")
        tokens = self._asked(about, now_ns)
        next(words)
        try:
            selection = _selection(words)
            rows = [_picked(self._row(token, now_ns), selection) for token in tokens]
        except (_Unknown, StopIteration):
            return _refusal("GRAPHQL_VALIDATION_FAILED")
        return json({"data": {"filterTokens": {"results": rows}}})

    def _asked(self, about: Mapping[str, Any], now_ns: int) -> list[SimToken]:
        if "tokens" in about:
            pairs = (str(each).partition(":") for each in about["tokens"])
            found = (self._market.find(int(id_), address) for address, _, id_ in pairs if id_.isdecimal())
            return [token for token in found if token is not None]
        networks = [each for each in about.get("network", ()) if isinstance(each, int)]
        listed = [token for each in networks for token in self._market.trending(each, now_ns)]
        return listed[: min(int(about.get("limit", 25)), LIMIT_MAX)]

    def _row(self, token: SimToken, now_ns: int) -> dict[str, Any]:
        told = self._market.told(token, now_ns)
        return {
            "priceUSD": f"{told.price:.18f}",
            "change24": f"{told.change:.6f}",
            "volume24": f"{told.volume:.2f}",
            "liquidity": f"{told.liquidity:.2f}",
            "marketCap": f"{told.cap:.2f}",
            "txnCount24": told.buys + told.sells,
            "createdAt": token.created_ns // NS,
            "pair": {"address": token.pools[0], "id": f"{token.pools[0]}:{token.chain.id}"},
            "token": {
                "address": token.address,
                "networkId": token.chain.id,
                "name": token.name,
                "symbol": token.symbol,
                "decimals": token.decimals,
                "info": {"imageThumbUrl": token.image},
            },
        }


def _selection(words: Iterator[str]) -> dict[str, Any]:
    """`{a b {c}}` as {"a": {}, "b": {"c": {}}}. Raises StopIteration where it does not end."""
    found: dict[str, Any] = {}
    name = ""
    if next(words) != "{":
        raise _Unknown
    stack = [found]
    while stack:
        word = next(words)
        if word == "}":
            stack.pop()
        elif word == "{":
            stack.append(stack[-1][name])
        else:
            name = word
            stack[-1][name] = {}
    return found


def _picked(row: Mapping[str, Any], selection: Mapping[str, Any]) -> dict[str, Any]:
    if not selection.keys() <= row.keys():
        raise _Unknown
    return {name: _picked(row[name], inner) if inner else row[name] for name, inner in selection.items()}


def _refusal(code: str) -> Answer:
    return json({"errors": [{"message": code, "extensions": {"code": code}}], "data": None})
