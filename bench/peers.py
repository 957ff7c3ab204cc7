"""ccxt.pro and cryptofeed on the same frames as ours: `python -m bench.peers PEERS_PYTHON`, as `make bench-peers` calls it.

The peers live in an environment of their own; bench/peers_worker.py runs there. Frames are aggregate trades of Binance
USDM futures on a combined stream, bytes in memory; each library hands normalised trades to a callback.
"""

import json
import subprocess
import sys
from pathlib import Path

from bench.peers_worker import rate
from bench.tables import Row, print_table
from openoutcry.events import Trade
from openoutcry.venues import VENUES

FRAMES = 1_000


def frames() -> list[bytes]:
    """One symbol's aggregate trades, ids and times rising."""
    return [
        b'{"stream":"btcusdt@aggTrade","data":{"e":"aggTrade","E":%d,"a":%d,"s":"BTCUSDT","p":"23001.10","q":"0.123",'
        b'"f":%d,"l":%d,"T":%d,"m":true}}'
        % (1_672_515_782_136 + n, 12_345 + n, 100 + n, 100 + n, 1_672_515_782_134 + n)
        for n in range(FRAMES)
    ]


def ours(recorded: list[bytes]) -> float:
    """Trades per CPU second through the adapter."""
    venue = VENUES["binance_futures"]()
    assumed = venue.assume("BTCUSDT")
    assert assumed is not None
    venue.learn([assumed])
    assert all(isinstance(event, Trade) for frame in recorded for event in venue.decode(frame, 1))
    return rate(recorded, lambda frame: venue.decode(frame, 1))


def main(python: str) -> None:
    recorded = frames()
    worker = Path(__file__).with_name("peers_worker.py")
    # -P: the folder of the worker has an http.py of ours, which must not stand in for the library's.
    answer = subprocess.run([python, "-P", str(worker)], input=b"\n".join(recorded), stdout=subprocess.PIPE, check=True)
    peers: dict[str, float] = json.loads(answer.stdout)
    mine = ours(recorded)
    rows = [Row(f"ours beside {name}", mine, figure, "trades per CPU second") for name, figure in peers.items()]
    print_table("Binance USDM aggregate trades, frame to normalised trade (floor = the peer)", rows)


if __name__ == "__main__":
    main(sys.argv[1])
