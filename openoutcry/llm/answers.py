"""What a model said, put together from its deltas; and the port behind which answers to idempotency keys are kept."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from openoutcry.chat import Delta, Said, Usage
from openoutcry.ledger.records import KeptAnswer

# Where an upstream does not count: of English, a token is about so many bytes.
BYTES_A_TOKEN = 4


class AnswerStore(Protocol):
    """Answers by account and idempotency key; they are written with what was paid for them, by the ledger.

    Its methods wait: they are called in threads.
    """

    def get(self, account: str, key: str) -> KeptAnswer | None:
        """The one under that key. Raises Unavailable."""
        ...

    def drop(self, account: str, key: str, before_ns: int) -> None:
        """It goes, if it is older than that. Raises Unavailable."""
        ...

    def prune(self, before_ns: int, kept_max: int, batch_max: int) -> int:
        """Those older than that go, then the oldest beyond `kept_max`; `batch_max` at most. Returns how many. Raises Unavailable."""
        ...


class Heard:
    """What was said so far. Its parts are kept only where the whole is wanted; what they weigh is always counted."""

    def __init__(self, *, whole: bool) -> None:
        self.finish: str | None = None
        self.usage: Usage | None = None
        self.size_bytes = 0
        self._whole = whole
        self._text: list[str] = []
        self._thought: list[str] = []
        self._refusal: list[str] = []
        self._tool_calls: list[Any] = []
        self._logprobs: list[Any] = []

    def add(self, delta: Delta) -> None:
        """One more piece."""
        self.finish = delta.finish or self.finish
        self.usage = delta.usage or self.usage
        self.size_bytes += size_bytes(delta)
        if not self._whole:
            return
        for pieces, piece in ((self._text, delta.text), (self._thought, delta.thought), (self._refusal, delta.refusal)):
            if piece:
                pieces.append(piece)
        self._tool_calls += delta.tool_calls
        if delta.logprobs:
            self._logprobs.append(delta.logprobs)

    @property
    def tokens(self) -> int:
        """About how many tokens that was."""
        return tokens_of(self.size_bytes)

    def said(self) -> Said:
        """All of it as one answer."""
        text = "".join(self._text)
        return Said(
            # Who calls a tool says nothing; who says nothing at all said an empty text.
            text=text if text or not (self._tool_calls or self._refusal) else None,
            finish=self.finish or "stop",
            thought="".join(self._thought),
            refusal="".join(self._refusal),
            tool_calls=_joined(self._tool_calls),
            logprobs=_chained(self._logprobs),
            usage=self.usage,
        )


def size_bytes(piece: Delta | Said) -> int:
    """What was made, whether it is shown or not."""
    calls = len(json.dumps(piece.tool_calls, default=str)) if piece.tool_calls else 0
    return calls + sum(len(each.encode(errors="replace")) for each in (piece.text or "", piece.thought, piece.refusal))


def tokens_of(size: int) -> int:
    """About how many tokens so many bytes are."""
    return -(-size // BYTES_A_TOKEN)


def deltas_of(said: Said) -> Iterator[Delta]:
    """A whole answer as a stream gives it, up to its finish."""
    if said.thought:
        yield Delta(thought=said.thought)
    if said.text or said.refusal or said.logprobs:
        yield Delta(text=said.text or "", refusal=said.refusal, logprobs=said.logprobs)
    if said.tool_calls:
        yield Delta(tool_calls=[{"index": index, **call} for index, call in enumerate(said.tool_calls)])


def _joined(pieces: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Calls of tools from their pieces: arguments grow, whatever else is said once."""
    calls: dict[Any, dict[str, Any]] = {}
    for piece in pieces:
        call = calls.setdefault(piece.get("index", 0), {})
        for name, value in piece.items():
            if name == "function" and isinstance(value, Mapping):
                function = call.setdefault(name, {"arguments": ""})
                told = {part: said for part, said in value.items() if said is not None}
                arguments = function["arguments"] + told.pop("arguments", "")
                function.update(told, arguments=arguments)
            elif name != "index" and value is not None:
                call[name] = value
    return list(calls.values())


def _chained(pieces: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Lists of tokens, one after the other."""
    whole: dict[str, Any] = {}
    for piece in pieces:
        for name, tokens in piece.items():
            whole[name] = [*(whole.get(name) or ()), *(tokens or ())] or None
    return whole or None
