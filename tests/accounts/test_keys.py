"""Keys: made, known, ended, from here and from another process."""

import asyncio
import base64
import hashlib
import hmac
from collections.abc import AsyncIterator, Callable, Hashable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from openoutcry.accounts.keys import KEYS_MAX, SCOPES, KeyRecord, Keys
from openoutcry.clock import NS, ManualClock
from openoutcry.errors import Invalid, TooLarge, Unauthenticated, Unavailable, Unknown
from openoutcry.stores.keys import MemoryKeys, SqlKeys, private_file
from openoutcry.stores.sql import sqlite_url
from openoutcry.telemetry import Telemetry

NOW_NS = 1_763_553_600 * NS
PEPPER = b"p" * 64


class Failing(MemoryKeys):
    """A store that can be told to fail."""

    def __init__(self) -> None:
        super().__init__()
        self.fails = False
        self.readings = 0

    def all(self) -> Mapping[bytes, KeyRecord]:
        self.readings += 1
        self._may()
        return super().all()

    def stamp(self) -> Hashable:
        self._may()
        return super().stamp()

    def _may(self) -> None:
        if self.fails:
            raise Unavailable("store", "the disk is gone")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW_NS)


@pytest.fixture
def telemetry() -> Telemetry:
    return Telemetry()


@pytest.fixture
def store() -> Failing:
    return Failing()


@pytest.fixture
def keys(store: Failing, clock: ManualClock, telemetry: Telemetry) -> Keys:
    return Keys(store, PEPPER, clock, telemetry)


def refused(telemetry: Telemetry, why: str) -> float | None:
    return telemetry.registry.get_sample_value("openoutcry_keys_refused_total", {"why": why})


@asynccontextmanager
async def running(keys: Keys) -> AsyncIterator[None]:
    task = asyncio.create_task(keys.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def refreshed(clock: ManualClock, seconds: float) -> None:
    """So much time goes by, and whoever woke up has gone back to sleep, its thread done."""
    await clock.advance(seconds)
    async with asyncio.timeout(10):
        while not clock.sleepers:  # noqa: ASYNC110  the clock has no event for who begins to sleep
            await asyncio.sleep(0)


# -- making and knowing


async def test_a_new_key_is_known_by_its_text_alone(keys: Keys) -> None:
    record, text = await keys.create("bot", {"market"})
    assert text.startswith("oo-")
    assert len(base64.urlsafe_b64decode(text[3:] + "=")) == 32
    assert (record.name, record.scopes, record.created_ns) == ("bot", frozenset({"market"}), NOW_NS)
    assert (record.prefix, record.last) == (text[:7], text[-4:])
    assert keys.known(text) == keys.authenticate(text) == record
    for other in (text[:-1], text + "A", text.swapcase(), text[3:], f" {text}", "", "oo-", "ü" * 46, "\ud800" * 46):
        assert keys.known(other) is None, other


async def test_a_key_may_do_everything_unless_told_otherwise(keys: Keys) -> None:
    record, _ = await keys.create("bot")
    assert record.scopes == SCOPES == {"market", "ai", "trade"}


async def test_only_the_digest_under_the_pepper_is_kept(keys: Keys, store: Failing) -> None:
    record, text = await keys.create("bot")
    assert store.all() == {hmac.new(PEPPER, text.encode(), hashlib.sha256).digest(): record}
    assert text not in repr(vars(keys))


async def test_the_text_is_made_of_the_chance_that_was_handed_in(clock: ManualClock, telemetry: Telemetry) -> None:
    asked: list[int] = []

    def chance(size: int) -> bytes:
        asked.append(size)
        return b"\xff" * size

    _, text = await Keys(MemoryKeys(), PEPPER, clock, telemetry, random=chance).create("bot")
    assert text == "oo-" + "_" * 42 + "8"
    assert asked[0] == 32


async def test_another_pepper_knows_none_of_the_keys(store: Failing, keys: Keys, clock: ManualClock) -> None:
    _, text = await keys.create("bot")
    other = Keys(store, b"q" * 64, clock, Telemetry())
    await other.load()
    assert other.known(text) is None


@pytest.mark.parametrize("name", ["", "  ", "x" * 65, "line\nbreak", "bell\x07"])
async def test_a_name_that_cannot_be_shown_is_refused(keys: Keys, name: str) -> None:
    with pytest.raises(Invalid, match="1 to 64 printable"):
        await keys.create(name)


@pytest.mark.parametrize(("scopes", "said"), [({"market", "root"}, "no scope 'root'"), ((), "needs a scope")])
async def test_a_scope_there_is_none_of_is_refused_with_those_there_are(keys: Keys, scopes: Any, said: str) -> None:
    with pytest.raises(Invalid, match=f"{said}.*; there are ai, market, trade"):
        await keys.create("bot", scopes)


async def test_there_is_a_most_of_keys_and_revoking_makes_room(keys: Keys, store: Failing) -> None:
    for n in range(KEYS_MAX - 1):
        store.add(f"{n}".encode(), KeyRecord(f"{n}", "bot", "oo-", "", SCOPES, n))
    await keys.create("last")
    with pytest.raises(TooLarge, match="revoke one"):
        await keys.create("one more")
    await keys.revoke("7")
    await keys.create("one more")


# -- refusing


async def test_a_missing_and_an_unknown_key_are_refused_with_one_code_and_counted(
    keys: Keys, telemetry: Telemetry
) -> None:
    for text, said in ((None, "the key is missing"), ("", "the key is missing"), ("oo-wrong", "no such key")):
        with pytest.raises(Unauthenticated, match=said) as refusal:
            keys.authenticate(text)
        assert refusal.value.code == "unauthenticated"
    assert (refused(telemetry, "missing"), refused(telemetry, "unknown")) == (2, 1)


# -- revoking


async def test_a_revoked_key_is_unknown_at_once_and_stays_listed(
    keys: Keys, clock: ManualClock, telemetry: Telemetry
) -> None:
    record, text = await keys.create("bot")
    kept, kept_text = await keys.create("other")
    await clock.advance(5)
    gone = await keys.revoke(record.id)
    assert gone.revoked_ns == NOW_NS + 5 * NS
    assert keys.known(text) is None
    assert keys.known(kept_text) == kept
    await clock.advance(5)
    assert await keys.revoke(record.id) == gone, "a second time changes nothing"
    assert set(await keys.list()) == {gone, kept}
    assert telemetry.registry.get_sample_value("openoutcry_keys") == 1


async def test_a_key_is_revoked_by_its_prefix_where_that_says_which(clock: ManualClock) -> None:
    chances = iter([b"\x00" * 32, b"1" * 5, b"\x00" * 31 + b"1", b"2" * 5])
    keys = Keys(MemoryKeys(), PEPPER, clock, Telemetry(), random=lambda _: next(chances))
    (first, text), (second, _) = await keys.create("a"), await keys.create("b")
    assert first.prefix == second.prefix == "oo-AAAA"
    with pytest.raises(Invalid, match=f"2 keys begin with 'oo-AAAA'.*{first.id}, {second.id}"):
        await keys.revoke("oo-AAAA")
    await keys.revoke(second.id)
    assert (await keys.revoke("oo-AAAA")).id == first.id
    assert keys.known(text) is None


async def test_what_is_no_key_cannot_be_revoked(keys: Keys) -> None:
    await keys.create("bot")
    for which in ("nothing", "", "oo-"):
        with pytest.raises(Unknown, match="openoutcry keys list"):
            await keys.revoke(which)


# -- beside another process


@pytest.fixture
def beside(tmp_path: Path, clock: ManualClock) -> Any:
    """Two front doors on one file, as the server and the command line have."""
    stores = [SqlKeys(sqlite_url(private_file(tmp_path / "accounts.sqlite3"))) for _ in range(2)]
    yield [Keys(each, PEPPER, clock, Telemetry()) for each in stores]
    for each in stores:
        each.close()


async def test_a_key_made_and_ended_elsewhere_is_noticed_within_a_second(
    beside: list[Keys], clock: ManualClock
) -> None:
    server, elsewhere = beside
    await server.load()
    async with running(server):
        record, text = await elsewhere.create("bot")
        assert server.known(text) is None
        await refreshed(clock, 0.5)
        assert server.known(text) == record
        ended: list[str] = []
        server.watch(record, lambda: ended.append("stream"))
        await elsewhere.revoke(record.id)
        assert server.known(text) == record
        assert ended == []
        await refreshed(clock, 0.5)
        assert server.known(text) is None
        assert ended == ["stream"]
        await refreshed(clock, 5)
        assert ended == ["stream"], "told once"


async def test_nothing_is_read_again_while_nothing_changes(keys: Keys, store: Failing, clock: ManualClock) -> None:
    await keys.create("bot")
    readings = store.readings
    async with running(keys):
        for _ in range(5):
            await refreshed(clock, 0.5)
    assert store.readings == readings


# -- streams


async def test_every_stream_of_a_revoked_key_ends_and_no_other(keys: Keys) -> None:
    record, _ = await keys.create("bot")
    other, _ = await keys.create("other")
    ended: list[str] = []
    keys.watch(record, lambda: ended.append("a"))
    keys.watch(record, lambda: ended.append("b"))
    stopped = keys.watch(record, lambda: ended.append("stopped"))
    keys.watch(other, lambda: ended.append("other"))
    stopped()
    stopped()
    await keys.revoke(record.id)
    assert sorted(ended) == ["a", "b"]


async def test_a_stream_that_began_as_its_key_was_revoked_ends_too(keys: Keys, clock: ManualClock) -> None:
    record, _ = await keys.create("bot")
    await keys.revoke(record.id)
    ended: list[str] = []
    keys.watch(record, lambda: ended.append("late"))
    async with running(keys):
        await refreshed(clock, 0.5)
    assert ended == ["late"]


async def test_a_stream_that_fails_to_end_does_not_keep_the_others_open(keys: Keys) -> None:
    record, _ = await keys.create("bot")
    ended: list[str] = []

    def fail() -> None:
        raise RuntimeError("cannot")

    for on_revoked in (lambda: ended.append("a"), fail, lambda: ended.append("b")):
        keys.watch(record, on_revoked)
    with capture_logs() as said:
        await keys.revoke(record.id)
    assert sorted(ended) == ["a", "b"]
    assert [(each["event"], each["key"]) for each in said] == [("a stream did not end with its key", record.id)]


async def test_a_stream_that_another_one_stopped_is_not_told(keys: Keys) -> None:
    record, _ = await keys.create("bot")
    ended: list[str] = []
    stops: dict[str, Callable[[], None]] = {}
    for name, other in (("a", "b"), ("b", "a")):

        def end(name: str = name, other: str = other) -> None:
            ended.append(name)
            stops[other]()

        stops[name] = keys.watch(record, end)
    await keys.revoke(record.id)
    assert len(ended) == 1


# -- a store that fails


async def test_known_keys_stay_valid_while_the_store_fails_and_that_is_said_once_a_minute(
    keys: Keys, store: Failing, clock: ManualClock
) -> None:
    record, text = await keys.create("bot")
    async with running(keys):
        store.fails = True
        with capture_logs() as said:
            for _ in range(240):
                await refreshed(clock, 0.5)
        assert keys.known(text) == record
        assert [each["error"] for each in said] == ["the disk is gone"] * 2
        store.fails = False
        store.revoke(record.id, NOW_NS)
        await refreshed(clock, 0.5)
        assert keys.known(text) is None


async def test_the_first_reading_must_succeed(keys: Keys, store: Failing) -> None:
    store.fails = True
    with pytest.raises(Unavailable, match="the disk is gone"):
        await keys.load()
