"""Keys: made, known, ended, from here and from another process."""

import asyncio
import base64
import hashlib
import hmac
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from openoutcry.accounts.keys import SCOPES, KeyRecord, Keys
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
        self.writings: list[dict[str, int]] = []

    def all(self) -> Mapping[bytes, KeyRecord]:
        self._may()
        return super().all()

    def changed(self, after: int) -> tuple[int, Mapping[bytes, KeyRecord]]:
        self._may()
        change, keys = super().changed(after)
        self.readings += len(keys)
        return change, keys

    def used(self, uses: Mapping[str, int]) -> None:
        self._may()
        self.writings.append(dict(uses))
        super().used(uses)

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
    assert re.fullmatch("kai-[0-9a-f]{64}", text)
    assert (record.name, record.scopes, record.created_ns) == ("bot", frozenset({"market"}), NOW_NS)
    assert (record.prefix, record.last) == (text[:12], text[-4:])
    assert keys.known(text) == keys.authenticate(text) == record
    for other in (
        text[:-1],
        text + "A",
        text.swapcase(),
        text.upper(),
        text[3:],
        f" {text}",
        "",
        "kai-",
        "ü" * 68,
        "\ud800" * 46,
    ):
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
    assert text == "kai-" + "f" * 64
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


async def test_there_is_a_most_of_keys_and_revoking_makes_room(store: Failing, clock: ManualClock) -> None:
    keys = Keys(store, PEPPER, clock, Telemetry(), keys_max=10)
    for n in range(9):
        store.add(f"{n}".encode(), KeyRecord(f"{n}", "bot", "oo-", "", SCOPES, n))
    await keys.create("last")
    with pytest.raises(TooLarge, match="revoke one"):
        await keys.create("one more")
    await keys.revoke("7")
    await keys.create("one more")


async def test_a_key_of_the_old_form_stays_good(keys: Keys, store: Failing) -> None:
    text = "oo-" + base64.urlsafe_b64encode(bytes(range(32))).rstrip(b"=").decode()
    record = KeyRecord("old", "bot", text[:7], text[-4:], SCOPES, 1)
    store.add(hmac.digest(PEPPER, text.encode(), "sha256"), record)
    await keys.load()
    assert keys.authenticate(text) == record
    assert keys.known(text[:-1] + "A") is None


async def test_a_keys_number_is_its_id(keys: Keys) -> None:
    record, _ = await keys.create("bot")
    assert 0 <= record.number < 2**40
    assert base64.b32encode(record.number.to_bytes(5, "big")).decode().lower() == record.id


# -- of an account


async def test_an_account_sees_and_ends_its_own_keys_alone(keys: Keys) -> None:
    (mine, text), (other, _) = await keys.create("mine", account="a"), await keys.create("other", account="b")
    (nobodys, _) = await keys.create("nobody's")
    assert (mine.account, nobodys.account) == ("a", None)
    assert await keys.of("a") == [mine]
    for foreign in (other, nobodys):
        for which in (foreign.id, foreign.prefix):
            with pytest.raises(Unknown, match="none of yours"):
                await keys.revoke(which, "a")
    gone = await keys.revoke(mine.id, "a")
    assert await keys.of("a") == [gone]
    assert gone.revoked_ns == NOW_NS
    assert keys.known(text) is None


async def test_an_account_has_so_many_keys_and_no_more(store: Failing, clock: ManualClock) -> None:
    keys = Keys(store, PEPPER, clock, Telemetry(), of_account_max=2)
    first, _ = await keys.create("1", account="a")
    await keys.create("2", account="a", expires_ns=NOW_NS + NS)
    for account in ("b", None, None, None):
        await keys.create("other", account=account)
    with pytest.raises(TooLarge, match="at most 2 keys"):
        await keys.create("3", account="a")
    await clock.advance(1)
    await keys.create("3", account="a")
    await keys.revoke(first.id)
    await keys.create("4", account="a")
    with pytest.raises(TooLarge):
        await keys.create("5", account="a")


# -- expiring


async def test_a_key_ends_by_the_clock_and_its_streams_with_it(
    keys: Keys, store: Failing, clock: ManualClock, telemetry: Telemetry
) -> None:
    kept, _ = await keys.create("kept", expires_ns=NOW_NS + 60 * NS)
    record, text = await keys.create("short", expires_ns=NOW_NS + NS)
    ended: list[str] = []
    async with running(keys):
        keys.watch(record, lambda: ended.append("short"))
        keys.watch(kept, lambda: ended.append("kept"))
        await refreshed(clock, 0.999)
        assert keys.known(text) == record
        assert ended == []
        store.fails = True
        await refreshed(clock, 0.001)
        assert keys.known(text) is None
        with pytest.raises(Unauthenticated):
            keys.authenticate(text)
        await refreshed(clock, 0.5)
        assert ended == ["short"]
    assert telemetry.registry.get_sample_value("openoutcry_keys") == 1


async def test_a_key_that_expired_is_unknown_before_anybody_looks(keys: Keys, clock: ManualClock) -> None:
    record, text = await keys.create("short", expires_ns=NOW_NS + NS)
    assert keys.authenticate(text) == record
    await clock.advance(1)
    assert keys.known(text) is None


@pytest.mark.parametrize("expires_ns", [0, NOW_NS, 2**63])
async def test_a_key_cannot_end_before_it_began(keys: Keys, expires_ns: int) -> None:
    with pytest.raises(Invalid, match="in the future"):
        await keys.create("bot", expires_ns=expires_ns)


# -- last use


async def test_a_use_is_shown_at_once_and_written_at_most_once_a_minute(
    keys: Keys, store: Failing, clock: ManualClock
) -> None:
    record, text = await keys.create("bot", account="a")
    assert (await keys.of("a"))[0].used_ns is None
    async with running(keys):
        keys.authenticate(text)
        assert (await keys.of("a"))[0].used_ns == NOW_NS
        assert store.writings == [], "not by whoever calls"
        for _ in range(300):
            await refreshed(clock, 0.5)
            keys.authenticate(text)
    assert store.writings == [{record.id: NOW_NS + s * NS} for s in (0, 60, 120)]
    assert (await keys.list())[0].used_ns == NOW_NS + 150 * NS
    assert store.of("a")[0].used_ns == NOW_NS + 120 * NS
    await keys.close()
    await keys.close()
    assert store.writings[3:] == [{record.id: NOW_NS + 150 * NS}]


async def test_a_use_that_could_not_be_written_is_written_later(keys: Keys, store: Failing, clock: ManualClock) -> None:
    record, text = await keys.create("bot")
    async with running(keys):
        keys.authenticate(text)
        store.fails = True
        await refreshed(clock, 0.5)
        await keys.close()
        assert store.writings == []
        store.fails = False
        await refreshed(clock, 0.5)
    assert store.writings == [{record.id: NOW_NS}]


async def test_what_was_written_before_a_restart_counts(keys: Keys, store: Failing, clock: ManualClock) -> None:
    _, text = await keys.create("bot")
    keys.authenticate(text)
    await keys.close()
    await clock.advance(30)
    again = Keys(store, PEPPER, clock, Telemetry())
    await again.load()
    async with running(again):
        again.authenticate(text)
        await refreshed(clock, 0.5)
    assert len(store.writings) == 1


async def test_the_use_of_a_key_that_ended_is_not_kept(keys: Keys) -> None:
    record, text = await keys.create("bot")
    keys.authenticate(text)
    await keys.revoke(record.id)
    keys.used(record)
    assert (keys._uses, keys._due, keys._written) == ({}, set(), {})


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
    assert first.prefix == second.prefix == "kai-00000000"
    with pytest.raises(Invalid, match=f"2 keys begin with 'kai-00000000'.*{first.id}, {second.id}"):
        await keys.revoke("kai-00000000")
    await keys.revoke(second.id)
    assert (await keys.revoke("kai-00000000")).id == first.id
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


async def test_only_what_changed_is_read_again(keys: Keys, store: Failing, clock: ManualClock) -> None:
    await keys.create("bot")
    readings = store.readings
    async with running(keys):
        for _ in range(5):
            await refreshed(clock, 0.5)
        assert store.readings == readings == 1
        store.add(b"other", KeyRecord("other", "bot", "oo-", "", SCOPES, NOW_NS))
        await refreshed(clock, 0.5)
    assert store.readings == 2, "the new one alone"


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
