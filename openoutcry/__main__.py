"""The command line: demo, serve, record, replay, config."""

import asyncio
import json
import signal
import sys
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from openoutcry import __version__
from openoutcry.config import Config, described, load
from openoutcry.errors import Refusal

STOP_S_MAX = 4.5  # a signal ends the server within five seconds, whatever hangs

app = typer.Typer(
    name="openoutcry",
    help="One self-hosted server for crypto market data and trading.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
settings = typer.Typer(help="Settings: what is in force, and what there is to set.", no_args_is_help=True)
app.add_typer(settings, name="config")

ConfigFile = Annotated[Path | None, typer.Option("--config", metavar="FILE", help="TOML file with settings.")]
Http = Annotated[
    str | None, typer.Option("--http", metavar="HOST:PORT", help="REST, WebSocket and pages. [127.0.0.1:8000]")
]
Grpc = Annotated[str | None, typer.Option("--grpc", metavar="HOST:PORT", help="gRPC. [127.0.0.1:50051]")]
Data = Annotated[Path | None, typer.Option("--data", metavar="FOLDER", help="Where the database is kept.")]
AsJson = Annotated[
    bool, typer.Option("--json", help="Machine-readable lines on standard output, all else on standard error.")
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


def _load(file: Path | None, **flags: Any) -> Config:
    """Settings with the flags that were given on top."""
    default = Path("openoutcry.toml")
    chosen = file or (default if default.is_file() else None)
    return load({name: value for name, value in flags.items() if value is not None}, chosen)


def _run(config: Config, *, as_json: bool, simulated: bool) -> None:
    from openoutcry.app import Server, outside, simulated_outside
    from openoutcry.telemetry import configure_logs

    configure_logs(config.log.level, as_json=config.log.json_lines)

    async def until_stopped() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        world = await (simulated_outside(config) if simulated else outside(config))
        server = Server(world)
        try:
            starting = asyncio.ensure_future(server.start())
            stopping = asyncio.ensure_future(stop.wait())
            await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                starting.result()
                _announce(server.ready_line(), as_json=as_json, simulated=simulated)
                await stopping
            else:
                starting.cancel()
            stopping.cancel()
        finally:
            await _within(STOP_S_MAX, server.stop)

    _looped(until_stopped)


def _announce(ready: dict[str, Any], *, as_json: bool, simulated: bool) -> None:
    if as_json:
        print(json.dumps(ready), flush=True)
        return
    from rich.console import Console

    url = ready["http"]
    what = "a simulated world (same seed, same world)" if simulated else "the venues"
    Console().print(
        f"\n[bold green]openoutcry {__version__}[/] is running on {what}\n\n"
        f"  REST and WebSocket  [bold]{url}[/]   pages: {url}/docs\n"
        f"  gRPC                [bold]{ready['grpc']}[/]\n\n"
        "Try, in another terminal:\n\n"
        f"  curl '{url}/binance/ohlc/BTCUSDT/1m?limit=3'\n"
        f"  curl '{url}/multi/ohlc/BTCUSDT/5m?limit=1'\n"
        f"  python -m websockets ws{url.removeprefix('http')}/ws/binance/BTCUSDT/ohlc?interval=1m\n\n"
        "Ctrl-C stops it.",
        highlight=False,
        soft_wrap=True,
    )


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
