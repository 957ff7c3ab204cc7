"""A real server of language models, as an upstream."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import structlog

from openoutcry.chat import Conversation
from openoutcry.clock import SystemClock
from openoutcry.config import UpstreamConfig
from openoutcry.errors import ContextTooLong, Invalid
from openoutcry.llm.routing import Line, Routed, estimated
from openoutcry.telemetry import Telemetry
from openoutcry.transport import HttpClient
from openoutcry.upstreams.openai import OpenAi
from tests.llm.llamacpp import CONTEXT_TOKENS, LlamaCpp

TOOL = {"type": "function", "function": {"name": "price", "parameters": {"type": "object", "properties": {}}}}


def asking(content: Any = "Up?", tokens: int = 8, **fields: Any) -> Conversation:
    message = {"role": "user", "content": content}
    return Conversation(messages=(message,), output_tokens_max=tokens, thinks=False, fields={"seed": 1, **fields})


@asynccontextmanager
async def routed(llamacpp: LlamaCpp) -> AsyncIterator[Routed]:
    http, clock = HttpClient(), SystemClock()
    config = UpstreamConfig(base_url=llamacpp.url, model=llamacpp.model)
    yield Routed([Line("llamacpp", config, OpenAi(), http, clock, Telemetry())], clock, random.Random(1))
    await http.close()


async def test_a_whole_answer_is_counted_and_cut_at_its_bound(llamacpp: LlamaCpp) -> None:
    async with routed(llamacpp) as route:
        said = await route.complete(asking(ignore_eos=True))
        assert (said.finish, route.status()) == ("length", "available")
        assert said.usage is not None
        assert said.usage.tokens_out == 8
        assert said.upstream_id.startswith("chatcmpl-")
        assert said.text


async def test_a_streamed_answer_says_and_counts_what_a_whole_one_does(llamacpp: LlamaCpp) -> None:
    async with routed(llamacpp) as route:
        said = await route.complete(asking(ignore_eos=True, temperature=0))
        deltas = [delta async for delta in route.stream(asking(ignore_eos=True, temperature=0))]
    assert "".join(delta.text for delta in deltas) == said.text
    assert [delta.finish for delta in deltas if delta.finish] == ["length"]
    usages = [delta.usage for delta in deltas if delta.usage]
    assert said.usage is not None
    assert [(usage.tokens_in, usage.tokens_out) for usage in usages] == [(said.usage.tokens_in, said.usage.tokens_out)]


@pytest.mark.parametrize("fields", [{}, {"tools": [TOOL]}])
async def test_tokens_of_a_prompt_are_those_it_is_billed(llamacpp: LlamaCpp, fields: dict[str, Any]) -> None:
    async with routed(llamacpp) as route:
        conversation = asking("How is the market of “Ether”?", tokens=1, **fields)
        counted = await route.tokens_in(conversation)
        said = await route.complete(conversation)
    assert said.usage is not None
    assert counted == said.usage.tokens_in
    assert counted != estimated(conversation)


async def test_what_it_refuses_is_the_callers_fault(llamacpp: LlamaCpp) -> None:
    async with routed(llamacpp) as route:
        for asked in (asking("x" * 2 * CONTEXT_TOKENS), asking("x" * 2 * CONTEXT_TOKENS, tools=[TOOL])):
            with pytest.raises(ContextTooLong):
                await route.complete(asked)
            with pytest.raises(ContextTooLong):
                await anext(route.stream(asked))
        with pytest.raises(Invalid, match="does not take this request"):
            await route.complete(asking({"odd": 1}))
        assert route.status() == "available"


async def test_a_probe_finds_the_model(llamacpp: LlamaCpp) -> None:
    async with routed(llamacpp) as route:
        with structlog.testing.capture_logs() as logs:
            await route.probe()
        assert (logs, route.status()) == ([], "available")
