"""The bus delivers by type and topic, in order, and one bad listener costs nobody else anything."""

from decimal import Decimal

from openoutcry.bus import Bus
from openoutcry.events import MarkPrice, Quote


def mark(instrument: str, price: str = "1") -> MarkPrice:
    return MarkPrice(instrument, 1, 1, Decimal(price))


def test_a_listener_hears_its_type_and_no_other() -> None:
    bus, heard = Bus(), list[MarkPrice]()
    bus.listen(MarkPrice, heard.append)
    quote = Quote("a:X", 1, 1, None, None, None, None)
    bus.publish([quote, mark("a:X")])
    assert heard == [mark("a:X")]


def test_a_listener_of_a_topic_hears_that_instrument_only() -> None:
    bus, heard = Bus(), list[MarkPrice]()
    bus.listen(MarkPrice, heard.append, "a:X")
    bus.publish([mark("a:Y"), mark("a:X")])
    assert heard == [mark("a:X")]
    assert bus.heard(MarkPrice, "a:X")
    assert not bus.heard(MarkPrice, "a:Y")


def test_listeners_are_called_in_the_order_they_came() -> None:
    bus, order = Bus(), list[str]()
    bus.listen(MarkPrice, lambda _: order.append("first"))
    bus.listen(MarkPrice, lambda _: order.append("second"))
    bus.publish([mark("a:X")])
    assert order == ["first", "second"]


def test_who_stops_listening_hears_nothing_more_and_leaves_nothing_behind() -> None:
    bus, heard = Bus(), list[MarkPrice]()
    stops = [bus.listen(MarkPrice, heard.append), bus.listen(MarkPrice, heard.append, "a:X")]
    for stop in stops:
        stop()
        stop()  # a second time changes nothing
    bus.publish([mark("a:X")])
    assert heard == []
    assert not bus.heard(MarkPrice, "a:X")


def test_a_listener_that_fails_costs_the_others_nothing() -> None:
    bus, heard = Bus(), list[MarkPrice]()

    def fails(_: MarkPrice) -> None:
        raise ValueError("a fault of a listener")

    bus.listen(MarkPrice, fails)
    bus.listen(MarkPrice, heard.append)
    bus.publish([mark("a:X")])
    assert heard == [mark("a:X")]
    assert bus.failures == 1
