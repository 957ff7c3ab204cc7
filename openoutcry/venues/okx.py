"""OKX v5, spot, perpetual swaps and futures in one: frames in, events out.

https://www.okx.com/docs-v5/en/

    {"arg": {"channel": "trades-all", "instId": "BTC-USDT"}, "data": [{"instId": "BTC-USDT", "tradeId": "130639474",
        "px": "42219.9", "sz": "0.12060306", "side": "buy", "ts": "1630048897897", "source": "0"}]}
    {"arg": {"channel": "candle1m", "instId": "BTC-USDT-SWAP"}, "data": [["1597026360000", "8533.02", "8553.74",
        "8527.17", "8548.26", "45247", "529.5858061", "4529585.8", "0"]]}
    {"arg": {"channel": "books", "instId": "BTC-USDT"}, "action": "update", "data": [{"asks": [["8476.98", "415", "0",
        "13"]], "bids": [], "ts": "1597026383085", "checksum": -855196043, "prevSeqId": 123456, "seqId": 123457}]}
    {"arg": {"channel": "liquidation-orders", "instType": "SWAP"}, "data": [{"instId": "IOST-USDT-SWAP", "details": [
        {"side": "buy", "posSide": "short", "bkPx": "0.007831", "sz": "13", "ts": "1692266434010"}]}]}
    {"event": "error", "code": "60018", "msg": "Wrong URL or channel:trades,instId:X-Y doesn't exist. ..."}
    pong

Sizes of derivatives are contracts: coins = contracts x ctVal x ctMult (linear), or dollars likewise (inverse), so a
derivative is only read when it is listed. Trades come from `trades-all`, one match a frame, whose ids are those of the
REST history; `trades` is read too: it joins the matches of one taker order at one price (`count`) under the last id.
Both leave block trades out, as the candles do. `side` of a liquidation is the order's, `bkPx` the bankruptcy price,
the details are in no order of time, and the venue says that not every liquidation is told. The funding rate is that of
the running period, which ends at `fundingTime`. Since 2026-08 `checksum` is 0 on every frame, which is none; older
frames have no `seqId` and are numbered as they come. Bars of six hours and more open at 00:00 UTC+8 unless asked for
with `utc`. REST lists come newest first; `after` means older, `before` newer, both without the bound itself.
"""

from collections.abc import Iterable, Sequence

from openoutcry.venues.okx_frames import OkxFrames
from openoutcry.venues.okx_wire import inst_type_of
from openoutcry.venues.venue import Feed, Stream


class Okx(OkxFrames):
    """Spot, swaps and futures: one venue, two sockets."""

    def streams(self, feed: Feed, symbols: Iterable[str] | None) -> Sequence[Stream]:
        """One channel a symbol; liquidations come by type for all. Symbols that cannot have the feed are left out."""
        if feed is not Feed.LIQUIDATIONS:
            offered = None if symbols is None else [symbol for symbol in symbols if _offers(feed, symbol)]
            return super().streams(feed, offered)
        channel, endpoint, silence_s = self.channels[feed]
        kinds = {"SWAP", "FUTURES"} if symbols is None else {inst_type_of(s) for s in symbols} - {"SPOT"}
        return [Stream(f"{channel}:{kind}", endpoint, "*", frozenset({feed}), silence_s) for kind in sorted(kinds)]


def _offers(feed: Feed, symbol: str) -> bool:
    inst_type = inst_type_of(symbol)
    if feed is Feed.FUNDING:
        return inst_type == "SWAP"
    return inst_type != "SPOT" or feed not in {Feed.OPEN_INTEREST, Feed.MARK_PRICE}
