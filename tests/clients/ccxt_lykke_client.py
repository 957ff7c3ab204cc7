"""The unmodified class `lykke` of ccxt 4.4.53 against our exchange; run by hand, for ccxt is no part of our lock.

    python -m venv ccxt && ccxt/bin/pip install ccxt==4.4.53
    ccxt/bin/python tests/clients/ccxt_lykke_client.py http://127.0.0.1:8000/api KEY OTHER_KEY BTC/USD

Both keys trade, each for an account of its own that has both assets of the pair, which nobody else trades meanwhile.
"""

import sys
from collections.abc import Callable
from typing import Any

import ccxt


def client(base: str, key: str) -> Any:
    made = ccxt.lykke({"apiKey": key, "enableRateLimit": False})
    made.urls["api"] = {"public": base, "private": base}
    return made


def refused(kind: type[Exception], act: Callable[[], Any]) -> None:
    said: Exception | None = None
    try:
        act()
    except ccxt.BaseError as e:
        said = e
    assert type(said) is kind, said
    print(f"{kind.__name__}: {said}")


def main(base: str, key: str, other: str, symbol: str) -> None:
    me, him = client(base, key), client(base, other)
    market = me.load_markets()[symbol]
    least = market["limits"]["amount"]["min"]
    volume = me.parse_to_numeric(me.amount_to_precision(symbol, 100 * least))
    before = me.fetch_balance()
    sell = me.create_order(symbol, "limit", "sell", volume, 101)["id"]
    buy = me.create_order(symbol, "limit", "buy", volume, 99)["id"]
    book = me.fetch_order_book(symbol, 5)
    assert (book["bids"], book["asks"]) == ([[99, volume]], [[101, volume]]), book
    assert {order["id"] for order in me.fetch_open_orders(symbol, None, 10)} == {sell, buy}
    assert me.fetch_balance()[market["base"]]["used"] == before[market["base"]]["used"] + volume
    half = me.parse_to_numeric(me.amount_to_precision(symbol, volume / 2))
    taken = him.create_order(symbol, "market", "buy", half)
    assert taken["price"] == 101, taken
    told = me.fetch_order(sell)
    assert (told["filled"], told["amount"], told["price"], told["side"]) == (half, volume, 101, "sell"), told
    assert me.fetch_ticker(symbol)["last"] == 101
    assert me.fetch_trades(symbol, None, 1)[0]["side"] == "buy"
    assert him.fetch_my_trades(symbol, 1, 1)[0]["order"] == taken["id"]
    assert him.fetch_closed_orders(symbol, None, 1)[0]["status"] == "closed"
    assert me.fetch_deposits_withdrawals()
    refused(ccxt.InvalidOrder, lambda: me.create_order(symbol, "limit", "buy", volume, 101))
    refused(
        ccxt.InsufficientFunds,
        lambda: him.create_order(symbol, "limit", "sell", 1_000 * before["total"][market["base"]], 200),
    )
    refused(ccxt.ExchangeError, lambda: him.cancel_order(buy))
    refused(ccxt.ExchangeError, lambda: me.fetch_order("nobodys"))
    refused(ccxt.ExchangeError, lambda: me.withdraw(market["base"], volume, "address"))
    refused(ccxt.AuthenticationError, client(base, "wrong").fetch_balance)
    assert me.cancel_order(buy)["info"] == {"payload": None, "error": None}
    me.cancel_all_orders(symbol)
    assert me.fetch_open_orders(symbol) == []
    print(f"ccxt {ccxt.__version__}: all as it should be")


if __name__ == "__main__":
    main(*sys.argv[1:])
