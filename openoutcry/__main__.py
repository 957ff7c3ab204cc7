"""The command line: demo, serve, and what an operator asks for, also beside a server that runs."""

import asyncio
import json
import re
import shlex
import signal
import sys
import tempfile
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, closing, contextmanager, nullcontext, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from openoutcry import __version__
from openoutcry.config import FROZEN, BadConfig, Config, described, load
from openoutcry.errors import BadRange, Invalid, Refusal, Unknown

if TYPE_CHECKING:
    from openoutcry.accounts.accounts import Account, Accounts
    from openoutcry.accounts.keys import KeyRecord, Keys
    from openoutcry.billing.billing import Reconciled
    from openoutcry.ledger.ledger import Ledger
    from openoutcry.ledger.postings import Balance, Entry
    from openoutcry.market.tasks import Task
    from openoutcry.stores.export import Exported, Stored
    from openoutcry.stores.tasks import Tasks
    from openoutcry.terminal import Progress
    from openoutcry.trading.inbox import Asked
    from openoutcry.trading.listings import Listings

STOP_S_MAX = 3.5  # a signal ends the server within five seconds, whatever hangs
PROGRESS_S = 1.0
WATCH_S = 0.2
PASSWORD_BYTES_MAX = 4_096

app = typer.Typer(
    name="openoutcry",
    help="One self-hosted server for crypto market data and trading.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
settings = typer.Typer(help="Settings: what is in force, and what there is to set.", no_args_is_help=True)
app.add_typer(settings, name="config")
task_commands = typer.Typer(help="Backfill tasks: list and delete them, also while a server runs.")
app.add_typer(task_commands, name="tasks")
key_commands = typer.Typer(help="API keys: make, list and end them, also while a server runs.", no_args_is_help=True)
app.add_typer(key_commands, name="keys")
account_commands = typer.Typer(help="Accounts: list, make and change them, also while a server runs.")
app.add_typer(account_commands, name="accounts")
listing_commands = typer.Typer(help="What our own exchange trades: show and load it, also while a server runs.")
app.add_typer(listing_commands, name="listings")
exchange_commands = typer.Typer(help="Our own exchange: check what it holds.", no_args_is_help=True)
app.add_typer(exchange_commands, name="exchange")

ConfigFile = Annotated[Path | None, typer.Option("--config", metavar="FILE", help="TOML file with settings.")]
Http = Annotated[
    str | None, typer.Option("--http", metavar="HOST:PORT", help="REST, WebSocket and pages. [127.0.0.1:8000]")
]
Grpc = Annotated[str | None, typer.Option("--grpc", metavar="HOST:PORT", help="gRPC. [127.0.0.1:50051]")]
Data = Annotated[Path | None, typer.Option("--data", metavar="FOLDER", help="Where the database is kept.")]
AsJson = Annotated[
    bool, typer.Option("--json", help="Machine-readable lines on standard output, all else on standard error.")
]

Email = Annotated[str, typer.Argument(metavar="EMAIL", help="Whose account.")]
Amount = Annotated[str, typer.Argument(metavar="AMOUNT", help="How much: 5, or 0.25.")]
AssetId = Annotated[str, typer.Argument(metavar="ASSET", help="Of what: BTC, USD, …, as `openoutcry listings` shows.")]
OnceId = Annotated[
    str | None, typer.Option("--id", metavar="ID", help="Twice the same id is once. [a fresh one, which is printed]")
]
PasswordStdin = Annotated[
    bool, typer.Option("--password-stdin", help="Read the password from the first line of standard input. [asked for]")
]


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Say the version and stop.")] = False,
) -> None:
    """One self-hosted server for crypto market data and trading."""
    if version:
        print(f"openoutcry {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())


@app.command()
def demo(
    http: Http = None,
    grpc: Grpc = None,
    data: Data = None,
    seed: Annotated[int | None, typer.Option("--seed", metavar="N", help="Same seed, same world. [7]")] = None,
    as_json: AsJson = False,
    file: ConfigFile = None,
) -> None:
    """Run the whole server on a simulated world: no network, no keys, no set-up.

    Without --data the database lives in a temporary folder that is removed at the end.
    """
    with ExitStack() as stack:
        folder = data or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="openoutcry-demo-")))
        config = _load(file, http=http, grpc=grpc, data=folder, seed=seed)
        _run(config, as_json=as_json, simulated=True)


@app.command()
def serve(
    http: Http = None, grpc: Grpc = None, data: Data = None, as_json: AsJson = False, file: ConfigFile = None
) -> None:
    """Run the server against the real venues."""
    _run(_load(file, http=http, grpc=grpc, data=data), as_json=as_json, simulated=False)


@app.command()
def record(
    venue: Annotated[str, typer.Argument(help="Whose frames: binance_futures, okx, ...")],
    folder: Annotated[Path, typer.Option("--folder", metavar="FOLDER", help="Where the files go.")] = Path(
        "recordings"
    ),
    seconds: Annotated[
        float | None, typer.Option("--seconds", min=0.1, help="Stop after so long. [until Ctrl-C]")
    ] = None,
    simulated: Annotated[bool, typer.Option("--simulated", help="Record the simulated venue: no network.")] = False,
    as_json: AsJson = False,
    file: ConfigFile = None,
) -> None:
    """Write the raw frames of a venue as they are received, for `openoutcry replay`."""
    from openoutcry import app as parts

    config = _load(file)
    _logs(config, quiet=True)
    last: dict[str, Any] = {}

    def told(recorder: Any) -> None:
        last.update(
            venue=venue,
            frames=recorder.frames,
            dropped=recorder.dropped,
            bytes_written=recorder.bytes_written,
            files=[str(path) for path in recorder.files],
        )
        _progress(last, as_json=as_json)

    async def recording() -> None:
        with tempfile.TemporaryDirectory() as scratch:
            inside = config.model_copy(update={"data": Path(scratch)})
            world = await (parts.simulated_outside(inside) if simulated else parts.outside(inside))
            try:
                work = asyncio.ensure_future(parts.record(world, venue, folder, told, PROGRESS_S))
                await _until_signal(work, seconds)
            finally:
                await _within(STOP_S_MAX, world.close)

    _looped(recording)
    if last and not as_json:
        print(f"\n{last['frames']:,} frames of {venue}, {last['bytes_written']:,} bytes:", *last["files"], sep="\n  ")


@app.command()
def replay(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILES", help="Recordings: ours, cryptofeed's, hftbacktest's.")
    ],
    venue: Annotated[str | None, typer.Option("--venue", help="Whose frames, where a file does not say.")] = None,
    speed: Annotated[
        float | None, typer.Option("--speed", min=0.001, help="1 = as it was. [as fast as it goes]")
    ] = None,
    events: Annotated[bool, typer.Option("--events", help="Print every event, one JSON object a line.")] = False,
    candles: Annotated[bool, typer.Option("--candles", help="Print the candles its trades make, one a line.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run recorded frames through the same decode as live ones, and print what came out."""
    import msgspec

    from openoutcry.aggregates.candles import Candles
    from openoutcry.clock import SystemClock
    from openoutcry.events import INTERVALS_S, Trade
    from openoutcry.feed.replay import Replay
    from openoutcry.feed.replay import as_json as line

    for path in files:
        if not path.is_file():
            raise BadConfig(f"{path}: no such file")
    run = Replay(files, SystemClock(), venue=venue)
    built = Candles(minutes_kept=10_000)
    seen: set[str] = set()

    async def playing() -> None:
        out = sys.stdout.buffer
        async for _, heard in run.paced(speed):
            for event in heard:
                if events:
                    out.write(line(event) + b"\n")
                if candles and isinstance(event, Trade):
                    seen.add(event.instrument)
                    for closed in built.on_trade(event):
                        out.write(line(closed) + b"\n")
        for name in sorted(seen):
            growing = built.growing(name, INTERVALS_S[0], partial=True)
            if growing is not None:
                out.write(line(growing) + b"\n")
        out.flush()

    _looped(playing)
    if as_json:
        print(msgspec.json.encode(run.summary).decode())
    else:
        print(*run.summary.lines(), sep="\n", file=sys.stderr if events or candles else sys.stdout)


@app.command()
def backfill(
    symbol: Annotated[str, typer.Argument(help="BTC, BTCUSDT, BTC-USD, …")],
    start: Annotated[str, typer.Option("--start", metavar="TIME", help="From when: 2026-01-31, 2026-01-31T12:00Z.")],
    end: Annotated[str | None, typer.Option("--end", metavar="TIME", help="Up to when, exclusive. [now]")] = None,
    interval: Annotated[str, typer.Option("--interval", metavar="INTERVAL", help="1m, 5m, 1h, 1d, …")] = "1h",
    venue: Annotated[str | None, typer.Option("--venue", help="Whose candles. [setting hyperoru.venue]")] = None,
    force: Annotated[bool, typer.Option("--force", help="Fetch what is stored already as well.")] = False,
    simulated: Annotated[bool, typer.Option("--simulated", help="From the simulated venues: no network.")] = False,
    data: Data = None,
    as_json: AsJson = False,
    file: ConfigFile = None,
) -> None:
    """Fetch closed candles of the past into the store, and show how far it is.

    A server that has the data folder does the work, and goes on after Ctrl-C; else it is done here, and the same command
    goes on where it was stopped.
    """
    from openoutcry.backfilling import backfiller
    from openoutcry.clock import SystemClock
    from openoutcry.market.tasks import ACTIVE, TaskState
    from openoutcry.stores.export import interval_of, time_of
    from openoutcry.terminal import Progress

    config, clock = _load(file, data=data), SystemClock()
    _logs(config, quiet=True)
    start_ns, end_ns = time_of(start), clock.now_ns() if end is None else time_of(end)
    interval_s = interval_of(interval)
    ended: list[Task] = []

    async def working() -> None:
        async with backfiller(config, clock, simulated=simulated) as where:

            async def watching() -> None:
                instrument = await where.find(venue or config.hyperoru.venue, symbol)
                task = await where.create(instrument, interval_s, start_ns, end_ns, force=force)
                with Progress(clock, as_json=as_json) as bar:
                    if where.served and not as_json:
                        bar.say(f"openoutcry: task {task.id}, done by the server that has {config.data}")
                    while True:
                        over = task.state not in ACTIVE
                        step_ns = interval_s * 1_000_000_000
                        at_ns = task.end_ns if task.state is TaskState.COMPLETED else task.cursor_ns
                        bar.told(
                            f"{instrument.name} {interval}",
                            done=(at_ns - task.start_ns) // step_ns,
                            total=(task.end_ns - task.start_ns) // step_ns,
                            state=task.state.value,
                            last=over,
                            stored=task.candles,
                        )
                        if over:
                            ended.append(task)
                            return
                        await clock.sleep(WATCH_S)
                        now = await where.get(task.id)
                        if now is None:
                            raise Unknown(f"task {task.id} was deleted")
                        task = now

            await _until_signal(asyncio.ensure_future(watching()))
            if not ended:
                goes_on = (
                    "the server goes on with it" if where.served else "the same command, or a server, goes on with it"
                )
                print(f"openoutcry: left; {goes_on}", file=sys.stderr)

    _looped(working)
    if not ended:
        raise typer.Exit(130)
    task = ended[0]
    if as_json:
        print(json.dumps(_task_fields(task)))
    elif task.state is TaskState.COMPLETED:
        print(
            f"{task.candles:,} candles stored; a server's /api/klines/gaps/{symbol}?interval={interval} says what is missing"
        )
    if task.state is TaskState.FAILED:
        raise Refusal(f"task {task.id} failed: {task.error}; the same command goes on where it stopped")


@task_commands.callback(invoke_without_command=True)
def tasks_list(context: typer.Context, data: Data = None, as_json: AsJson = False, file: ConfigFile = None) -> None:
    """Print the backfill tasks, newest first."""
    if context.invoked_subcommand is not None:
        return
    from openoutcry.stores.export import interval_name, time_text

    with _stored_tasks(_load(file, data=data)) as tasks:
        found = tasks.tasks()
    if as_json:
        for task in found:
            print(json.dumps(_task_fields(task)))
        return
    rows = [("id", "instrument", "interval", "from", "to", "state", "done", "candles", "")]
    rows.extend(
        (
            str(task.id),
            task.instrument,
            interval_name(task.interval_s),
            time_text(task.start_ns),
            time_text(task.end_ns),
            task.state.value,
            f"{task.share:.1%}",
            f"{task.candles:,}",
            task.error,
        )
        for task in found
    )
    _table(rows)


@task_commands.command("delete")
def tasks_delete(
    which: Annotated[str, typer.Argument(metavar="ID", help="3, or bf-003 as the API calls it.")],
    data: Data = None,
    file: ConfigFile = None,
) -> None:
    """Forget a task: a server that works on it stops within a second or two; what it stored stays."""
    digits = which.removeprefix("bf-")
    with _stored_tasks(_load(file, data=data)) as tasks:
        if not (digits.isascii() and digits.isdecimal() and len(digits) < 18 and tasks.drop_task(int(digits))):
            raise Unknown(f"there is no task {which}; `openoutcry tasks` lists them")
    print(f"deleted: task {int(digits)}")


@app.command()
def export(
    symbol: Annotated[str | None, typer.Argument(help="BTC, BTCUSDT, BTC-USD, …")] = None,
    interval: Annotated[
        str | None, typer.Option("--interval", metavar="INTERVAL", help="1m, 5m, 1h, 1d, … [1m; with --all: each]")
    ] = None,
    venue: Annotated[
        str | None, typer.Option("--venue", help="Whose candles. [setting hyperoru.venue; with --all: each]")
    ] = None,
    start: Annotated[str | None, typer.Option("--start", metavar="TIME", help="From when. [the first]")] = None,
    end: Annotated[str | None, typer.Option("--end", metavar="TIME", help="Up to when, exclusive. [the last]")] = None,
    form: Annotated[str, typer.Option("--format", metavar="FORMAT", help="csv, parquet or freqtrade.")] = "csv",
    folder: Annotated[
        Path, typer.Option("--folder", metavar="FOLDER", help="Where files named by what is in them go.")
    ] = Path(),
    out: Annotated[
        str | None, typer.Option("--out", metavar="FILE", help="This file instead; - is standard output, for csv.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All candles that are stored, a file for each.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there.")] = False,
    data: Data = None,
    as_json: AsJson = False,
    file: ConfigFile = None,
) -> None:
    """Write stored candles to files, also while a server runs; no venue is asked."""
    from openoutcry.app import DATABASE
    from openoutcry.clock import SystemClock
    from openoutcry.stores import export as exports
    from openoutcry.stores.sql import sqlite_url
    from openoutcry.terminal import Progress

    if (symbol is None) != everything:
        raise Invalid("name a symbol, or give --all")
    if out is not None and everything:
        raise Invalid("--out is one file: --folder is where those of --all go")
    if out == "-" and (form != "csv" or as_json):
        raise Invalid("only csv goes to standard output, and not with --json")
    exports.ready(form)
    start_ns, end_ns = (None if at is None else exports.time_of(at) for at in (start, end))
    if start_ns is not None and end_ns is not None and start_ns >= end_ns:
        raise BadRange("--start must be before --end")
    interval_s = None if interval is None else exports.interval_of(interval)
    config, clock = _load(file, data=data), SystemClock()
    url = config.store.url
    # A signal ends it as Ctrl-C does: what was begun is removed.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    with (
        closing(
            exports.StoredCandles(url.get_secret_value() if url else sqlite_url(config.data / DATABASE))
        ) as candles,
        Progress(clock, as_json=as_json) as bar,
    ):
        if symbol is None:
            wanted = exports.chosen(candles.series(), venue, interval_s)
        else:
            wanted = [exports.find(candles.series(), venue or config.hyperoru.venue, symbol, interval_s or 60)]
        for stored, target in exports.targets(wanted, form, folder, out, force=force, skipped=bar.say):
            if not candles.any(stored, start_ns, end_ns):
                if symbol is not None:
                    raise Unknown(exports.nothing(stored))
                bar.say(f"openoutcry: {exports.nothing(stored)}")
                continue

            def told(done: int, total: int, what: str = f"{stored.name} {stored.interval}") -> None:
                bar.told(what, done=done, total=total)

            with nullcontext(sys.stdout.buffer) if target is None else exports.whole_file(target, force=force) as into:
                made = exports.export(
                    candles, stored, into, form, start_ns=start_ns, end_ns=end_ns, now_ns=clock.now_ns(), told=told
                )
            _exported(stored, made, target, bar, as_json=as_json)


@account_commands.callback(invoke_without_command=True)
def accounts(context: typer.Context, data: Data = None, as_json: AsJson = False, file: ConfigFile = None) -> None:
    """Print the accounts, by e-mail."""
    if context.invoked_subcommand is None:
        accounts_list(data, as_json, file)


@account_commands.command("list")
def accounts_list(data: Data = None, as_json: AsJson = False, file: ConfigFile = None) -> None:
    """Print the accounts, by e-mail."""
    config = _there(_load(file, data=data))
    rows = [("id", "e-mail", "name", "tier", "created")]

    async def every() -> None:
        async with _accounts(config) as accounts:
            after: str | None = None
            while found := await accounts.list(after=after):
                after = found[-1].email
                for each in found:
                    if as_json:
                        print(json.dumps(_account_fields(each)))
                    else:
                        rows.append((each.id, each.email, each.display_name, each.tier, _minute(each.created_ns)))

    asyncio.run(every())
    if not as_json:
        _table(rows)


@account_commands.command("create")
def accounts_create(
    email: Email,
    name: Annotated[str, typer.Option("--name", help="What it is shown as.")] = "",
    tier: Annotated[str | None, typer.Option("--tier", help="How much it may use. [setting accounts.tier]")] = None,
    password_stdin: PasswordStdin = False,
    data: Data = None,
    as_json: AsJson = False,
    file: ConfigFile = None,
) -> None:
    """Make an account, also where nobody may register over HTTP."""
    config, password = _load(file, data=data), _password(from_stdin=password_stdin)

    async def create() -> "Account":
        async with _accounts(config) as accounts:
            return await accounts.create(email, password, name, tier=tier)

    _account_told("created", asyncio.run(create()), as_json=as_json)


@account_commands.command("set-tier")
def accounts_set_tier(
    email: Email,
    tier: Annotated[str, typer.Argument(help="One of the setting accounts.tiers: standard, frozen, …")],
    data: Data = None,
    as_json: AsJson = False,
    file: ConfigFile = None,
) -> None:
    """Put an account on another tier: a running server heeds it within a second."""
    config = _there(_load(file, data=data))

    async def change() -> "Account":
        async with _accounts(config) as accounts:
            return await accounts.set_tier((await accounts.find(email)).id, tier)

    _account_told("changed", asyncio.run(change()), as_json=as_json)


@account_commands.command("set-password")
def accounts_set_password(
    email: Email,
    password_stdin: PasswordStdin = False,
    data: Data = None,
    as_json: AsJson = False,
    file: ConfigFile = None,
) -> None:
    """Give an account another password: its login tokens are no longer good, its keys stay so."""
    config = _there(_load(file, data=data))
    password = _password(from_stdin=password_stdin)

    async def change() -> "Account":
        async with _accounts(config) as accounts:
            return await accounts.set_password((await accounts.find(email)).id, password)

    _account_told("changed", asyncio.run(change()), as_json=as_json)


@key_commands.command("create")
def keys_create(
    name: Annotated[str, typer.Argument(help="What you call it: whose it is, what it is for.")],
    scopes: Annotated[
        list[str] | None, typer.Option("--scope", metavar="SCOPE", help="market, ai or trade; repeatable. [all]")
    ] = None,
    account: Annotated[
        str | None, typer.Option("--account", metavar="EMAIL", help="Whose it is. [nobody's, without limits]")
    ] = None,
    expires: Annotated[
        str | None, typer.Option("--expires", metavar="TIME", help="When it ends: 2027-01-31, or 90d from now. [never]")
    ] = None,
    data: Data = None,
    as_json: AsJson = False,
    file: ConfigFile = None,
) -> None:
    """Make a key and print it, this once: only its hash is kept."""
    from openoutcry.accounts.keys import SCOPES

    config, expires_ns = _load(file, data=data), None if expires is None else _expiry(expires)
    if account is not None:
        _there(config)

    async def create() -> "tuple[KeyRecord, str]":
        async with _keys(config) as keys:
            owner = None if account is None else await _owner(config, account)
            return await keys.create(name, scopes or SCOPES, None if owner is None else owner.id, expires_ns=expires_ns)

    record, text = asyncio.run(create())
    if as_json:
        print(json.dumps({**_key_fields(record), "key": text}))
        return
    print(text)
    whose = "" if account is None else f", of {account}"
    until = "" if expires_ns is None else f", until {_minute(expires_ns)}"
    print(
        f"openoutcry: this is shown once; `openoutcry keys revoke {record.id}` ends it "
        f"({record.name}: {', '.join(sorted(record.scopes))}{whose}{until})",
        file=sys.stderr,
    )


@key_commands.command("list")
def keys_list(
    account: Annotated[str | None, typer.Option("--account", metavar="EMAIL", help="Those of one account.")] = None,
    data: Data = None,
    as_json: AsJson = False,
    file: ConfigFile = None,
) -> None:
    """Print all keys, oldest first: never their texts, only how these begin and end."""
    config = _there(_load(file, data=data))

    async def every() -> "tuple[Sequence[KeyRecord], Mapping[str, str]]":
        async with _keys(config) as keys:
            if account is not None:
                owner = await _owner(config, account)
                return await keys.of(owner.id), {owner.id: owner.email}
            found = await keys.list()
            return found, await _emails(config, {each.account for each in found if each.account is not None})

    records, emails = asyncio.run(every())
    if as_json:
        for record in records:
            print(json.dumps({**_key_fields(record), "email": emails.get(record.account or "")}))
        return
    rows: list[tuple[str, ...]] = [("id", "name", "key", "scopes", "account", "created", "used", "expires", "revoked")]
    for each in records:
        times = (each.created_ns, each.used_ns, each.expires_ns, each.revoked_ns)
        shown, whose = f"{each.prefix}…{each.last}", emails.get(each.account or "", each.account or "")
        told = ("" if at_ns is None else _minute(at_ns) for at_ns in times)
        rows.append((each.id, each.name, shown, ",".join(sorted(each.scopes)), whose, *told))
    _table(rows)


@key_commands.command("revoke")
def keys_revoke(
    which: Annotated[str, typer.Argument(metavar="ID", help="Its id, or how its text begins, as `keys list` shows.")],
    data: Data = None,
    as_json: AsJson = False,
    file: ConfigFile = None,
) -> None:
    """End a key: a running server refuses it, and ends its streams, within a second."""
    config = _there(_load(file, data=data))

    async def revoke() -> "KeyRecord":
        async with _keys(config) as keys:
            return await keys.revoke(which)

    record = asyncio.run(revoke())
    if as_json:
        print(json.dumps(_key_fields(record)))
    else:
        print(f"revoked: {record.name} ({record.id}, {record.prefix}…{record.last})")


@app.command()
def grant(
    email: Email,
    amount: Annotated[str, typer.Argument(metavar="KAI", help="How much: 5, or 0.25.")],
    id_: Annotated[
        str | None,
        typer.Option("--id", metavar="ID", help="Twice the same id gives it once. [a fresh one, which is printed]"),
    ] = None,
    reason: Annotated[str, typer.Option("--reason", help="What stands in its statement.")] = "grant",
    data: Data = None,
    as_json: AsJson = False,
    file: ConfigFile = None,
) -> None:
    """Give an account KAI, also while a server runs."""
    from openoutcry.ledger.postings import ISSUANCE, Posting
    from openoutcry.money import KAI

    config, micros, once = _there(_load(file, data=data)), KAI.units(amount), id_ or str(uuid.uuid4())
    if micros <= 0:
        raise Invalid("a grant is of more than nothing")

    async def give() -> "tuple[Account, Balance]":
        owner = await _owner(config, email)
        async with _books(config) as ledger:
            postings = (Posting(ISSUANCE, KAI.name, -micros), Posting(owner.id, KAI.name, micros))
            await ledger.transfer(f"grant/{once}", postings, reason)
            return owner, await ledger.balance(owner.id, KAI.name)

    owner, balance = asyncio.run(give())
    if as_json:
        told = {"id": once, "account_id": owner.id, "email": owner.email, "micros": micros}
        print(json.dumps({**told, "balance_micros": balance.total}))
    else:
        print(f"granted: {KAI.text(micros)} KAI to {owner.email}, who has {KAI.text(balance.total)} KAI now; id {once}")


@app.command()
def deposit(
    email: Email,
    amount: Amount,
    asset: AssetId,
    id_: OnceId = None,
    data: Data = None,
    as_json: AsJson = False,
    file: ConfigFile = None,
) -> None:
    """Bring money into an account's wallet on our exchange, also while a server runs."""
    _moved(_load(file, data=data), email, amount, asset, id_, out=False, as_json=as_json)


@app.command()
def withdraw(
    email: Email,
    amount: Amount,
    asset: AssetId,
    id_: OnceId = None,
    data: Data = None,
    as_json: AsJson = False,
    file: ConfigFile = None,
) -> None:
    """Take money out of an account's wallet on our exchange: what its orders reserve stays."""
    _moved(_load(file, data=data), email, amount, asset, id_, out=True, as_json=as_json)


@listing_commands.callback(invoke_without_command=True)
def listings(context: typer.Context, data: Data = None, as_json: AsJson = False, file: ConfigFile = None) -> None:
    """Print the assets and pairs that are traded."""
    if context.invoked_subcommand is None:
        listings_show(data, as_json, file)


@listing_commands.command("show")
def listings_show(data: Data = None, as_json: AsJson = False, file: ConfigFile = None) -> None:
    """Print the assets and pairs that are traded."""
    from openoutcry.exchanging import listed

    _listings_told(listed(_with_books(_load(file, data=data))), as_json=as_json)


@listing_commands.command("load")
def listings_load(
    toml: Annotated[Path, typer.Argument(metavar="FILE", help="TOML file of assets and pairs (docs/exchange.md).")],
    data: Data = None,
    as_json: AsJson = False,
    file: ConfigFile = None,
) -> None:
    """Trade what the file lists from now on. What is listed cannot go, and is counted in the same units for ever."""
    from openoutcry.trading import listings_file
    from openoutcry.trading.inbox import Relisting

    wanted = listings_file.read(toml)
    _answered(_load(file, data=data), str(uuid.uuid4()), Relisting(wanted.told()))
    _listings_told(wanted, as_json=as_json)


@exchange_commands.command("check")
def exchange_check(
    whole: Annotated[bool, typer.Option("--whole", help="From the first command. [from the newest snapshot]")] = False,
    data: Data = None,
    as_json: AsJson = False,
    file: ConfigFile = None,
) -> None:
    """Do the logged commands again, and compare what they come to with what is kept; status 1 where it differs."""
    from openoutcry.exchanging import checked

    config = _with_books(_load(file, data=data))
    _logs(config, quiet=True)
    number, again, kept = checked(config, whole=whole)
    if as_json:
        print(json.dumps({"same": again == kept, "commands": number, "digest": again, "kept": kept}))
    elif again == kept:
        print(f"the same: {number:,} commands come to what is kept ({kept[:16]})")
    else:
        print(f"not the same: {number:,} commands come to {again}, and {kept} is kept")
    if again != kept:
        raise typer.Exit(1)


@app.command()
def ledger(
    email: Annotated[str | None, typer.Argument(metavar="EMAIL", help="Whose balance and statement.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Read all books, and say what does not balance.")] = False,
    limit: Annotated[int, typer.Option("--limit", help="Entries of the statement, newest first.")] = 50,
    data: Data = None,
    as_json: AsJson = False,
    file: ConfigFile = None,
) -> None:
    """Print what an account has and what moved on it; or check that the books balance, status 1 where they do not."""
    if (email is None) != check:
        raise Invalid("name an account, or give --check")
    config = _load(file, data=data)
    if email is None:
        _checked(config, as_json=as_json)
        return
    from openoutcry.money import KAI

    owner, balance, entries = asyncio.run(_statement(_there(config), email, limit))
    if as_json:
        told = {
            "account_id": owner.id,
            "email": owner.email,
            "balance_micros": balance.total,
            "held_micros": balance.held,
        }
        print(json.dumps({**told, "free_micros": balance.free, "entries": [_entry_fields(each) for each in entries]}))
        return
    held = "" if balance.held == 0 else f", {KAI.text(balance.held)} KAI of it held"
    print(f"{owner.email}: {KAI.text(balance.total)} KAI{held}")
    if entries:
        rows = [("at", "KAI", "balance", "reason", "transfer")]
        rows.extend(
            (_minute(each.at_ns), KAI.text(each.amount), KAI.text(each.total), each.reason, each.transfer)
            for each in entries
        )
        _table(rows)


@app.command()
def reconcile(data: Data = None, as_json: AsJson = False, file: ConfigFile = None) -> None:
    """Credit what was paid by card and no webhook told of, also while a server runs, which does it every hour."""
    import msgspec

    from openoutcry.money import KAI

    found = asyncio.run(_reconciled(_load(file, data=data)))
    if as_json:
        print(msgspec.json.encode(found).decode())
        return
    for each in found.credited:
        usd = f"{each.cents // 100}.{each.cents % 100:02}"
        print(f"credited: {each.session_id}  {usd} USD, {KAI.text(each.micros)} KAI to {each.account}")
    for id_ in found.refused:
        print(f"refused: {id_}  cannot be credited; the log says why")
    for id_ in found.unknown:
        print(f"unknown: {id_}  paid, and no checkout of ours")
    print(
        f"{len(found.credited):,} credited, {found.already:,} credited already, {len(found.unknown):,} unknown, "
        f"{len(found.refused):,} refused"
    )
    if not found.whole:
        print("openoutcry: there are more; the same command, or a server, goes on with them", file=sys.stderr)


@app.command()
def certificate(
    hosts: Annotated[
        list[str] | None,
        typer.Option(
            "--host", metavar="HOST", help="Name or address of the server; repeatable. [localhost, 127.0.0.1]"
        ),
    ] = None,
    folder: Annotated[Path, typer.Option("--folder", metavar="FOLDER", help="Where both files go.")] = Path(),
    days: Annotated[int, typer.Option("--days", help="How long it holds.")] = 365,
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a self-signed certificate and its key, for gRPC with TLS."""
    from openoutcry.api.certificate import self_signed, write
    from openoutcry.clock import SystemClock

    pem = self_signed(hosts or ["localhost", "127.0.0.1"], days, SystemClock().now_ns())
    chain, key = (str(path.resolve()) for path in write(pem, folder, force=force))
    if as_json:
        print(json.dumps({"tls_certificate": chain, "tls_key": key}))
        return
    print(f"tls_certificate = {json.dumps(chain)}\ntls_key = {json.dumps(key)}")
    print(
        "openoutcry: put these two lines into the file you name with --config, at its top; callers need the certificate "
        "to believe the server, and never the key",
        file=sys.stderr,
    )


@settings.command("show")
def config_show(file: ConfigFile = None) -> None:
    """Print the settings in force as JSON, secrets masked."""
    from openoutcry.app import effective

    print(json.dumps(effective(_load(file)), indent=2))


@settings.command("reference")
def config_reference() -> None:
    """Print every setting with its meaning, as docs/settings.md holds it."""
    print("| setting | takes | default | meaning |\n|---|---|---|---|")
    for name, kind, default, meaning in described():
        print(f"| `{name}` | {kind} | {default} | {meaning} |")


def main() -> None:
    """Entry point: a refusal ends with its text and status 2, not with a traceback."""
    try:
        app()
    except Refusal as refusal:
        print(f"openoutcry: {refusal.text}", file=sys.stderr)
        sys.exit(2)
    except OSError as e:  # a disk that is full, a file that may not be read
        print(f"openoutcry: {e.filename or ''} {e.strerror or e}", file=sys.stderr)
        sys.exit(2)


def _load(file: Path | None, **flags: Any) -> Config:
    """Settings with the flags that were given on top."""
    default = Path("openoutcry.toml")
    chosen = file or (default if default.is_file() else None)
    return load({name: value for name, value in flags.items() if value is not None}, chosen)


def _there(config: Config) -> Config:
    """The same. Raises Unknown where nothing was ever made: a folder that was mistyped must not come to be."""
    from openoutcry.app import ACCOUNTS

    if config.store.url is None and not (config.data / ACCOUNTS).exists():
        raise Unknown(
            f"there are no keys and no accounts in {config.data}: name the server's folder with --data, "
            "or make one with `openoutcry keys create NAME`, `openoutcry accounts create EMAIL`"
        )
    return config


@asynccontextmanager
async def _keys(config: Config) -> "AsyncIterator[Keys]":
    """The keys, which a server may have open at the same time."""
    from openoutcry.accounts.keys import Keys
    from openoutcry.app import key_store
    from openoutcry.clock import SystemClock
    from openoutcry.telemetry import Telemetry

    _logs(config, quiet=True)
    store, pepper = key_store(config)
    with closing(store):
        yield Keys(store, pepper, SystemClock(), Telemetry(), of_account_max=config.accounts.keys_max)


@asynccontextmanager
async def _accounts(config: Config) -> "AsyncIterator[Accounts]":
    """The accounts, which a server may have open at the same time."""
    from openoutcry.accounts.accounts import Accounts
    from openoutcry.accounts.passwords import Passwords
    from openoutcry.accounts.tokens import Tokens
    from openoutcry.app import account_store
    from openoutcry.clock import SystemClock
    from openoutcry.telemetry import Telemetry

    _logs(config, quiet=True)
    (store, secret), clock = account_store(config), SystemClock()
    with closing(store), closing(Passwords()) as passwords:
        yield Accounts(store, passwords, Tokens(secret, clock), clock, Telemetry(), config.accounts)


@asynccontextmanager
async def _books(config: Config) -> "AsyncIterator[Ledger]":
    """The books, which a server may have open at the same time."""
    from openoutcry.app import ledger_store
    from openoutcry.clock import SystemClock
    from openoutcry.ledger.ledger import Ledger
    from openoutcry.telemetry import Telemetry

    _logs(config, quiet=True)
    with closing(ledger_store(config)) as store:
        books = Ledger(store, SystemClock(), Telemetry())
        try:
            yield books
        finally:
            await books.close()


async def _owner(config: Config, email: str) -> "Account":
    async with _accounts(config) as accounts:
        return await accounts.find(email)


async def _emails(config: Config, ids: set[str]) -> dict[str, str]:
    """The e-mails of those accounts."""
    found: dict[str, str] = {}
    if not ids:
        return found
    async with _accounts(config) as accounts:
        for id_ in ids:
            with suppress(Unknown):
                found[id_] = (await accounts.get(id_)).email
    return found


async def _statement(config: Config, email: str, limit: int) -> "tuple[Account, Balance, Sequence[Entry]]":
    from openoutcry.money import KAI

    owner = await _owner(config, email)
    async with _books(config) as books:
        return owner, await books.balance(owner.id, KAI.name), await books.statement(owner.id, KAI.name, limit)


def _with_books(config: Config) -> Config:
    """The same. Raises Unknown where there are no books."""
    from openoutcry.app import LEDGER

    if config.store.url is None and not (config.data / LEDGER).exists():
        raise Unknown(f"there are no books in {config.data}: name the server's folder with --data")
    return config


def _moved(config: Config, email: str, amount: str, asset: str, id_: str | None, *, out: bool, as_json: bool) -> None:
    """A deposit or a withdrawal, and what the wallet has after it. Raises Refusal where it was not done."""
    from openoutcry.exchanging import listed
    from openoutcry.trading import risk
    from openoutcry.trading.inbox import Moving

    wanted, once = risk.decimal(amount, "amount"), id_ or str(uuid.uuid4())
    if wanted <= 0:
        raise Invalid("the amount is more than nothing")
    owner = asyncio.run(_owner(_there(config), email))
    _answered(config, once, Moving(owner.id, asset, f"{-wanted if out else wanted:f}"))

    async def had() -> "Balance":
        async with _books(config) as books:
            return await books.balance(owner.id, asset)

    balance, of = asyncio.run(had()), listed(config).assets[asset]
    total, held = of.amount(balance.total), of.amount(balance.held)
    if as_json:
        told = {"id": once, "account_id": owner.id, "email": owner.email, "asset": asset}
        print(json.dumps({**told, "amount": f"{wanted:f}", "total": f"{total:f}", "held": f"{held:f}"}))
        return
    done, to = ("withdrawn", "from") if out else ("deposited", "to")
    print(f"{done}: {wanted:f} {asset} {to} {owner.email}, who has {total:f} {asset} now; id {once}")


def _answered(config: Config, id_: str, asked: "Asked") -> None:
    """Have the exchange do it. Raises Refusal where it was not done."""
    from openoutcry.clock import SystemClock
    from openoutcry.exchanging import told

    _logs(config, quiet=True)
    answer = asyncio.run(told(config, SystemClock(), id_, asked))
    if answer.refused is not None:
        raise Refusal(answer.refused)


def _listings_told(listed: "Listings", *, as_json: bool) -> None:
    import msgspec

    if as_json:
        print(msgspec.json.encode(listed).decode())
        return
    _table(
        [("asset", "name", "accuracy"), *((each.id, each.name, str(each.accuracy)) for each in listed.assets.values())]
    )
    print()
    rows = [("pair", "name", "base", "quote", "price accuracy", "min volume", "fees (maker, taker)", "")]
    rows.extend(
        (
            each.id,
            each.name,
            each.base,
            each.quote,
            str(each.price_accuracy),
            f"{each.volume(each.lots_min):f}",
            f"{each.maker_fee_ppm / 10_000:g}%, {each.taker_fee_ppm / 10_000:g}%",
            "" if each.on else "off",
        )
        for each in listed.pairs.values()
    )
    _table(rows)


def _checked(config: Config, *, as_json: bool) -> None:
    """Raises Unknown where there are no books, Exit(1) where they do not balance."""
    _with_books(config)

    async def check() -> Sequence[str]:
        async with _books(config) as books:
            return await books.check()

    complaints = asyncio.run(check())
    if as_json:
        print(json.dumps({"balances": not complaints, "complaints": list(complaints)}))
    else:
        print(*(complaints or ["all books balance"]), sep="\n")
    if complaints:
        raise typer.Exit(1)


def _password(*, from_stdin: bool) -> str:
    """As it was typed (twice, unseen), or the first line of standard input. Raises Invalid where there is no terminal."""
    if from_stdin:
        try:
            return sys.stdin.buffer.readline(PASSWORD_BYTES_MAX).decode().rstrip("\r\n")
        except UnicodeDecodeError as e:
            raise Invalid("the password is no UTF-8") from e
    if not sys.stdin.isatty():
        raise Invalid("there is no terminal to ask for a password at: give it with --password-stdin")
    typed: str = typer.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    return typed


def _expiry(told: str) -> int:
    """Nanoseconds of a time, or of so long from now. Raises Invalid, BadRange."""
    from openoutcry.clock import NS, SystemClock
    from openoutcry.stores.export import interval_of, time_of

    if re.fullmatch("[0-9]+[smhdw]", told, re.ASCII):
        return SystemClock().now_ns() + interval_of(told) * NS
    return time_of(told)


async def _reconciled(config: Config) -> "Reconciled":
    """What a look at Stripe's paid sessions comes to. Raises Unknown where there are no books, NotConfigured, Unavailable."""
    from openoutcry.app import account_store, billing, ledger_store, ledger_url
    from openoutcry.clock import SystemClock
    from openoutcry.ledger.ledger import Ledger
    from openoutcry.stores.billing import SqlBilling
    from openoutcry.telemetry import Telemetry
    from openoutcry.transport import HttpClient

    _with_books(config)
    _logs(config, quiet=True)
    clock, telemetry = SystemClock(), Telemetry()
    async with AsyncExitStack() as stack:
        books = ledger_store(config)
        stack.callback(books.close)
        store = SqlBilling(ledger_url(config))
        stack.callback(store.close)
        accounts, _ = account_store(config)
        stack.callback(accounts.close)
        ledger, http = Ledger(books, clock, telemetry), HttpClient()
        stack.push_async_callback(http.close)
        stack.push_async_callback(ledger.close)

        async def freeze(account: str) -> None:
            await asyncio.to_thread(accounts.set_tier, account, FROZEN)

        return await billing(config, ledger, store, http, freeze, clock, telemetry).reconcile()


@contextmanager
def _stored_tasks(config: Config) -> "Iterator[Tasks]":
    """The tasks in the store, which a server may have open. Raises Unknown where there is no store, Unavailable."""
    from openoutcry.app import DATABASE
    from openoutcry.backfilling import opened

    if config.store.url is None and not (config.data / DATABASE).exists():
        raise Unknown(f"there is no data in {config.data}: name the server's folder with --data")
    _logs(config, quiet=True)
    series = opened(config)
    try:
        yield series.tasks
    finally:
        series.close()


def _task_fields(task: "Task") -> dict[str, Any]:
    import msgspec

    return {**msgspec.structs.asdict(task), "progress_pct": round(100 * task.share, 1)}


def _table(rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _exported(stored: "Stored", made: "Exported", target: Path | None, bar: "Progress", *, as_json: bool) -> None:
    """What was written, and on standard error what is missing in it."""
    from openoutcry.stores.export import time_text

    what = f"{stored.name} {stored.interval}"
    holes = [(time_text(start_ns), time_text(end_ns)) for start_ns, end_ns in made.holes]
    if as_json:
        told = {
            "instrument": stored.name,
            "interval": stored.interval,
            "candles": made.rows,
            "first": time_text(made.first_ns),
            "last": time_text(made.last_ns),
            "missing": made.missing,
            "holes": [{"start": start, "end": end} for start, end in holes],
            "file": str(target),
        }
        print(json.dumps(told), flush=True)
    elif target is None:
        sys.stdout.flush()
    else:
        first, last = time_text(made.first_ns), time_text(made.last_ns)
        print(f"{target}: {made.rows:,} candles of {what}, {first} to {last}", flush=True)
    if made.missing:
        stretches = "; ".join(f"{start} to {end}" for start, end in holes)
        bar.say(
            f"openoutcry: {what}: {made.missing:,} candles are missing, and not filled in: {stretches}{_more(made)}"
        )


def _more(made: "Exported") -> str:
    return "" if made.more_holes == 0 else f"; and {made.more_holes:,} more stretches"


def _key_fields(record: "KeyRecord") -> dict[str, Any]:
    import msgspec

    return {**msgspec.structs.asdict(record), "scopes": sorted(record.scopes)}


def _account_fields(account: "Account") -> dict[str, Any]:
    import msgspec

    return msgspec.structs.asdict(account)


def _entry_fields(entry: "Entry") -> dict[str, Any]:
    import msgspec

    return msgspec.structs.asdict(entry)


def _account_told(done: str, account: "Account", *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(_account_fields(account)))
    else:
        print(f"{done}: {account.email} ({account.id}, tier {account.tier})")


def _minute(at_ns: int) -> str:
    return f"{datetime.fromtimestamp(at_ns // 1_000_000_000, UTC):%Y-%m-%d %H:%M}Z"


def _run(config: Config, *, as_json: bool, simulated: bool) -> None:
    from openoutcry.app import Server, outside, simulated_outside

    # Whoever tries the demo wants to read what to try, not how seven venues are doing.
    _logs(config, quiet=simulated)

    async def until_stopped() -> None:
        world = await (simulated_outside(config) if simulated else outside(config))
        server = Server(world)

        async def running() -> None:
            await server.start()
            _announce(server.ready_line(), server.silent(), as_json=as_json, simulated=simulated)
            await asyncio.Event().wait()

        try:
            await _until_signal(asyncio.ensure_future(running()))
        finally:
            await _within(STOP_S_MAX, server.stop)

    _looped(until_stopped)


def _logs(config: Config, *, quiet: bool) -> None:
    from openoutcry.telemetry import configure_logs

    level = "warning" if quiet and "level" not in config.log.model_fields_set else config.log.level
    configure_logs(level, as_json=config.log.json_lines)


async def _until_signal(work: "asyncio.Future[None]", seconds: float | None = None) -> None:
    """Let `work` run until it ends, a signal comes, or so many seconds are over. Raises what `work` raises."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    stopping = asyncio.ensure_future(stop.wait())
    await asyncio.wait((work, stopping), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if work.done():
        work.result()
        return
    work.cancel()
    await asyncio.wait((work,))


def _progress(state: dict[str, Any], *, as_json: bool) -> None:
    """How a long run is doing: one line that is written over at a terminal, plain lines elsewhere."""
    if as_json:
        print(json.dumps(state), flush=True)
        return
    end = "\r" if sys.stderr.isatty() else "\n"
    line = f"{state['venue']}: {state['frames']:,} frames, {state['bytes_written']:,} bytes"
    print(line, end=end, file=sys.stderr, flush=True)


def _announce(ready: dict[str, Any], silent: list[str], *, as_json: bool, simulated: bool) -> None:
    if silent:
        print(f"openoutcry: not heard yet, trying on: {', '.join(silent)}", file=sys.stderr)
    if as_json:
        print(json.dumps(ready), flush=True)
        return
    from rich.console import Console

    url = ready["http"]
    keys = "".join(f"  API key             [bold]{key}[/]   made for this run\n" for key in ready["keys"])
    what = "a simulated world (same seed, same world)" if simulated else "the venues"
    Console().print(
        f"\n[bold green]openoutcry {__version__}[/] is running on {what}\n\n"
        f"  REST and WebSocket  [bold]{url}[/]   pages: {url}/docs\n"
        f"  gRPC                [bold]{ready['grpc']}[/]\n{keys}\n"
        "Try, in another terminal:\n\n"
        f"  curl '{url}/binance/ohlc/BTCUSDT/1m?limit=3'\n"
        f"  curl '{url}/multi/ohlc/BTCUSDT/5m?limit=1'\n"
        f"  {_python()} -m websockets ws{url.removeprefix('http')}/ws/binance/BTCUSDT/ohlc?interval=1m\n"
        f"  {_python()} -m openoutcry backfill BTC --interval 1h --start {_days_ago(7)} --data {shlex.quote(ready['data'])}\n"
        f"  curl '{url}/api/klines/coverage?symbols=BTC'\n\n"
        "Ctrl-C stops it.",
        highlight=False,
        soft_wrap=True,
    )


def _days_ago(days: int) -> str:
    return f"{datetime.now(UTC) - timedelta(days=days):%Y-%m-%d}"


def _python() -> str:
    """How to start this Python from here, as short as it can be typed."""
    python, here = Path(sys.executable), Path.cwd()
    return str(python.relative_to(here)) if python.is_relative_to(here) else str(python)


async def _within(seconds: float, stop: Callable[[], Awaitable[None]]) -> None:
    try:
        await asyncio.wait_for(stop(), seconds)
    except TimeoutError:
        print(f"openoutcry: not everything stopped within {seconds} s; leaving anyway", file=sys.stderr)


def _looped(work: Callable[[], Awaitable[None]]) -> None:
    import uvloop

    async def run() -> None:
        await work()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


if __name__ == "__main__":
    main()
