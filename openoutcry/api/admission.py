"""Who is calling, may they, count it: the same gate for all dialects.

Callers are known by their address here, also those with a key; what a key may use is `accounts.limits`.
"""

from collections import Counter
from collections.abc import Callable

from openoutcry.accounts.rates import Rates, network
from openoutcry.clock import Clock
from openoutcry.errors import LimitExceeded

_LOOPBACK = ("127.", "::1")


class Admission:
    """Requests a second and open connections, per address and in all.

    `requests_per_s` None: no limit of rate. `loopback` False: callers on this machine are not limited.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        requests_per_s: float | None = 50.0,
        burst: int = 200,
        sockets_max: int = 10_000,
        sockets_per_address_max: int = 200,
        loopback: bool = False,
    ) -> None:
        self._clock = clock
        self._rates = None if requests_per_s is None else Rates(requests_per_s, burst)
        self._sockets_max = sockets_max
        self._sockets_per_address_max = sockets_per_address_max
        self._loopback = loopback
        self._open: Counter[str] = Counter()
        self.connections = 0
        self.refused = 0

    def request(self, address: str) -> None:
        """Count one request of that address. Raises LimitExceeded."""
        if self._rates is None or self._free(address):
            return
        wait_s = self._rates.wait_s(network(address), self._clock.now_ns())
        if wait_s:
            self.refused += 1
            raise LimitExceeded(f"too many requests from this address: try again in {wait_s:.3f} s", wait_s)

    def connect(self, address: str) -> Callable[[], None]:
        """Count one open WebSocket; returns the way to say it is closed. Raises LimitExceeded."""
        self.request(address)
        caller = network(address)
        if self.connections >= self._sockets_max:
            self.refused += 1
            raise LimitExceeded("the server holds as many connections as it may: try again later", 10.0)
        if not self._free(address) and self._open[caller] >= self._sockets_per_address_max:
            self.refused += 1
            raise LimitExceeded(f"more than {self._sockets_per_address_max} connections from this address", 10.0)
        self.connections += 1
        self._open[caller] += 1

        def close() -> None:
            self.connections -= 1
            self._open[caller] -= 1
            if not self._open[caller]:
                del self._open[caller]

        return close

    def _free(self, address: str) -> bool:
        return not self._loopback and address.startswith(_LOOPBACK)
