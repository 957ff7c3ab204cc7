"""Tokens of chains, for the catalogues we play: some dozens a world, each number a function of the seed, the token and the time.

market = TokenMarket(world)
market.trending(1399811149, now_ns)      # what is traded most on that network, first
market.find(1, "0xC02aaA39…")            # by address; addresses of the EVM in any case
market.told(token, now_ns)               # price, change, volume, …: the same for whoever asks

The chains' own coins have their real addresses and the prices of the world; all other tokens are invented.
"""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

from openoutcry.simulator.listings import COINS
from openoutcry.simulator.noise import grow, key, share_one, waves
from openoutcry.simulator.world import World

NS = 1_000_000_000
MINUTE_NS = 60 * NS
HOUR_NS = 60 * MINUTE_NS
DAY_NS = 24 * HOUR_NS
SOLANA = 1399811149
FIRST_NS = 1_704_067_200 * NS  # 2024-01-01: the oldest invented token
BORN_DAYS = 600
TOKENS_EACH = 12
PUMP_COINS = 28
PUMP_SUPPLY = 1_000_000_000.0
ORDER_USD = 180.0
# How a token's trading is shared among its pools.
POOLS = (0.72, 0.2, 0.08)
# Every so many seconds a coin of pump.fun is traded: some are dead.
RHYTHMS_S = (12, 40, 300, 1_800, 5_400, 36_000, 172_800, 864_000)
_PRICE = ((1, 0.003), (16, 0.015), (240, 0.06), (1_440, 0.12), (10_080, 0.25))
_LIVELY = ((2, 0.2), (24, 0.4), (168, 0.4))
_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_FIRSTS = ("Sleepy", "Turbo", "Based", "Salty", "Cosmic", "Lucky", "Grumpy", "Quantum", "Tiny", "Golden")
_LASTS = ("Otter", "Badger", "Pickle", "Llama", "Yeti", "Moth", "Noodle")


class Chain(NamedTuple):
    """Codex's number, GeckoTerminal's name, everybody else's; its own coin, wrapped, with its address and digits."""

    id: int
    gecko: str
    name: str
    coin: str
    wrapped: str
    decimals: int


CHAINS = (
    Chain(SOLANA, "solana", "solana", "SOL", "So11111111111111111111111111111111111111112", 9),
    Chain(1, "eth", "ethereum", "ETH", "0xC02aaA39b223FE8D0A0e5C4F27eAD9083C756Cc2", 18),
    Chain(56, "bsc", "bsc", "BNB", "0xbb4CdB9CBd36B01bD1cBaEBF2De08d9173bc095c", 18),
    Chain(8453, "base", "base", "ETH", "0x4200000000000000000000000000000000000006", 18),
    Chain(42161, "arbitrum", "arbitrum", "ETH", "0x82aF49447D8a07e3bd95BD0d56f35241523fBab1", 18),
    Chain(137, "polygon_pos", "polygon", "ETH", "0x7ceB23fD6bC0adD59E62ac25578270cFf1b9f619", 18),
    Chain(43114, "avax", "avalanche", "AVAX", "0xB31f66AA3C1e785363F0875A1B74E27b85FD66c7", 18),
    Chain(10, "optimism", "optimism", "ETH", "0x4200000000000000000000000000000000000006", 18),
)


class SimToken(NamedTuple):
    """What of a token never changes. `coin`: whose price it has in the world; `rhythm_s`: of a coin of pump.fun."""

    chain: Chain
    address: str
    symbol: str
    name: str
    decimals: int
    price: float
    supply: float
    pools: tuple[str, ...]
    created_ns: int
    coin: str = ""
    rhythm_s: int = 0

    @property
    def graduated(self) -> bool:
        """Whether a coin of pump.fun has left its own exchange: half of them have."""
        return self.created_ns // DAY_NS % 2 == 1

    @property
    def image(self) -> str:
        """Where its picture would be."""
        return f"https://tokens.example/{self.chain.name}/{self.address}.png"


class Told(NamedTuple):
    """What is true of a token at a moment; `change` is a share of the price a day before."""

    price: float
    change: float
    volume: float
    liquidity: float
    cap: float
    buys: int
    sells: int


class TokenMarket:
    """All tokens of a world."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._tokens = {chain.id: self._listed(chain) for chain in CHAINS}
        self._by_address = {(a.chain.id, _same(a.address)): a for each in self._tokens.values() for a in each}

    def find(self, network_id: int, address: str) -> SimToken | None:
        """By address."""
        return self._by_address.get((network_id, _same(address)))

    def trending(self, network_id: int, now_ns: int) -> Sequence[SimToken]:
        """All tokens of a network, the most traded first; none of a network that is not played."""
        return sorted(self.listed(network_id), key=lambda token: (-self.told(token, now_ns).volume, token.address))

    def listed(self, network_id: int) -> Sequence[SimToken]:
        """All tokens of a network, in no order of theirs."""
        return self._tokens.get(network_id, [])

    def pumped(self) -> Sequence[SimToken]:
        """The coins of pump.fun."""
        return [token for token in self.listed(SOLANA) if token.rhythm_s]

    def told(self, token: SimToken, now_ns: int) -> Told:
        """What is true of it then."""
        price, before = self._price(token, now_ns), self._price(token, now_ns - DAY_NS)
        stream = key(self._world.seed, "token volume", token.chain.id, token.address)
        lively = float(grow(waves(stream, now_ns // HOUR_NS, 1, _LIVELY))[0])
        cap = price * token.supply
        turnover, depth = (0.02 + 0.5 * share_one(stream)), 0.04
        if token.coin:
            turnover, depth = 0.004, 0.002
        if token.rhythm_s > DAY_NS // NS:
            turnover = 0.0
        volume = cap * turnover * lively
        trades = int(volume / ORDER_USD)
        buys = int(trades * (0.5 + 0.1 * (price - before) / max(price, before)))
        return Told(price, price / before - 1.0, volume, cap * depth, cap, buys, trades - buys)

    def traded_ns(self, token: SimToken, now_ns: int) -> int:
        """When a coin of pump.fun was last traded."""
        return now_ns // (token.rhythm_s * NS) * token.rhythm_s * NS

    def _price(self, token: SimToken, now_ns: int) -> float:
        if token.coin:
            return token.price * self._world.drift(token.coin, now_ns, COINS[token.coin].wildness)
        stream = key(self._world.seed, "token price", token.chain.id, token.address)
        return token.price * float(grow(waves(stream, now_ns // MINUTE_NS, 1, _PRICE))[0])

    def _listed(self, chain: Chain) -> list[SimToken]:
        about = COINS[chain.coin]
        symbol = f"W{chain.coin}" if chain.id != SOLANA else chain.coin
        own = SimToken(
            chain,
            chain.wrapped,
            symbol,
            f"Wrapped {chain.coin}",
            chain.decimals,
            about.price,
            2e10 / about.price,
            self._pools(chain, chain.wrapped),
            FIRST_NS,
            chain.coin,
        )
        return [
            own,
            *(self._invented(chain, n) for n in range(TOKENS_EACH + (PUMP_COINS if chain.id == SOLANA else 0))),
        ]

    def _invented(self, chain: Chain, n: int) -> SimToken:
        word = key(self._world.seed, "token", chain.id, n)
        pump = n >= TOKENS_EACH
        address = self._address(chain, f"token/{n}")
        if pump:
            address = address[:40] + "pump"
        first, last = _FIRSTS[word % len(_FIRSTS)], _LASTS[n % len(_LASTS)]
        # From thousands to tens of millions of USD.
        cap = 10.0 ** (4.0 + 4.0 * share_one(key(word, "cap")))
        supply = PUMP_SUPPLY if pump else 10.0 ** (6 + key(word, "supply") % 6)
        return SimToken(
            chain,
            address,
            f"{first[0]}{last}".upper()[:10],
            f"{first} {last}",
            6 if pump else 9 if chain.id == SOLANA else 18,
            cap / supply,
            supply,
            self._pools(chain, address),
            FIRST_NS + key(word, "born") % (BORN_DAYS * DAY_NS // MINUTE_NS) * MINUTE_NS,
            rhythm_s=RHYTHMS_S[n % len(RHYTHMS_S)] if pump else 0,
        )

    def _pools(self, chain: Chain, token: str) -> tuple[str, ...]:
        count = 1 + key(self._world.seed, "pools", token) % len(POOLS)
        return tuple(self._address(chain, f"pool/{token}/{n}") for n in range(count))

    def _address(self, chain: Chain, what: str) -> str:
        name = f"{self._world.seed}/{chain.id}/{what}".encode()
        if chain.id != SOLANA:
            return "0x" + hashlib.blake2b(name, digest_size=20).hexdigest()
        number = int.from_bytes(hashlib.blake2b(name, digest_size=32).digest(), "big")
        digits = ""
        for _ in range(44):
            number, digit = divmod(number, 58)
            digits += _BASE58[digit]
        return digits


def shares(token: SimToken) -> Sequence[tuple[str, float]]:
    """Its pools, and which part of its trading each has; all of them have all of it."""
    parts = POOLS[: len(token.pools)]
    return [(pool, part / sum(parts)) for pool, part in zip(token.pools, parts, strict=True)]


def chain_of(name: str) -> Chain | None:
    """By GeckoTerminal's name or everybody else's."""
    return next((chain for chain in CHAINS if name in {chain.gecko, chain.name}), None)


def _same(address: str) -> str:
    return address.lower() if address.startswith("0x") else address
