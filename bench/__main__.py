"""`python -m bench [PART ...]`: the tables, all of them or those named."""

import importlib
import platform
import sys

from bench.tables import print_table

# Each part has TITLE and table(); in the order data flows.
PARTS = (
    "decode",
    "candles",
    "store",
    "ledger",
    "exchange",
    "backfill",
    "http",
    "fanout",
    "streams",
    "points",
    "orders_grpc",
    "upstreams",
    "relay",
    "memory",
)


def main(named: list[str]) -> int:
    unknown = [part for part in named if part not in PARTS]
    if unknown:
        print(f"no such part: {', '.join(unknown)}; there are {', '.join(PARTS)}", file=sys.stderr)
        return 2
    print(f"Python {platform.python_version()} on {platform.machine()}; a figure counts as a ratio to its floor")
    for part in named or PARTS:
        module = importlib.import_module(f"bench.{part}")
        print()
        print_table(f"{part}: {module.TITLE}", module.table())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
