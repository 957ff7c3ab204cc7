"""A real server of language models: llama.cpp's own, with a tiny model of random weights. Its words are noise, its protocol is real.

Any test may name the fixture; it stands in tests/conftest.py, so that one server serves the whole session:

    async def test_something(llamacpp: LlamaCpp) -> None:
        client = openai.AsyncOpenAI(base_url=llamacpp.url, api_key="none")      # .url ends with /v1
        UpstreamConfig(base_url=llamacpp.url, model=llamacpp.model)

It answers `GET /v1/models`, `POST /v1/chat/completions` (streamed and whole, with usage), `POST /tokenize` and 400 for bad
requests; a prompt has at most CONTEXT_TOKENS tokens, a token is a byte or so. Answers rarely end by themselves: they
finish with `length`. It runs in a process of its own, which ends with the session, or with pytest if that dies.
"""

import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest

MODEL = "noise"
CONTEXT_TOKENS = 4_096
SLOTS = 4
LAYERS, WIDTH, HEADS, INNER = 2, 64, 4, 128
WORDS = ("▁the", "▁price", "▁rises", "▁falls", "▁and", "▁of", "▁a", "▁market", "ing", "er")
TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


class LlamaCpp(NamedTuple):
    """Where it listens, up to /v1, and what its model is called."""

    url: str
    model: str


@pytest.fixture(scope="session")
def llamacpp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaCpp]:
    """The server, listening."""
    for wheel in ("xllamacpp", "gguf"):
        if find_spec(wheel) is None:
            pytest.skip(f"there is no wheel of {wheel} for this platform")
    folder = tmp_path_factory.mktemp("llamacpp")
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen(
            [sys.executable, __file__, str(folder / "noise.gguf")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
        ) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            told = process.stdout.readline().decode().strip()
            assert told.startswith("http://"), (folder / "log").read_text(errors="replace")[-2_000:]
            yield LlamaCpp(f"{told}/v1", MODEL)
        finally:
            process.stdin.close()
            # llama.cpp's own threads need not be waited for: nothing of it is kept.
            process.kill()
            process.wait()


def write_model(path: Path) -> None:
    """A llama of two layers that knows bytes and a few words, with weights by chance, always the same."""
    import gguf
    import numpy as np

    bytes_ = [f"<0x{each:02X}>".encode() for each in range(256)]
    tokens = [b"<unk>", b"<s>", b"</s>", *bytes_, *(word.encode() for word in WORDS)]
    kinds = [
        gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL,
        *[gguf.TokenType.BYTE] * len(bytes_), *[gguf.TokenType.NORMAL] * len(WORDS),
    ]  # fmt: skip
    scores = [0.0] * (3 + len(bytes_)) + [-1.0 - at for at in range(len(WORDS))]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(MODEL)
    writer.add_context_length(CONTEXT_TOKENS)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(kinds)
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(TEMPLATE)
    chance = np.random.default_rng(1)

    def matrix(name: str, rows: int, columns: int) -> None:
        writer.add_tensor(name, chance.normal(0.0, 0.2, (rows, columns)).astype(np.float32))

    def ones(name: str) -> None:
        writer.add_tensor(name, np.ones(WIDTH, np.float32))

    matrix("token_embd.weight", len(tokens), WIDTH)
    ones("output_norm.weight")
    matrix("output.weight", len(tokens), WIDTH)
    for layer in range(LAYERS):
        ones(f"blk.{layer}.attn_norm.weight")
        ones(f"blk.{layer}.ffn_norm.weight")
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            matrix(f"blk.{layer}.{part}.weight", WIDTH, WIDTH)
        matrix(f"blk.{layer}.ffn_gate.weight", INNER, WIDTH)
        matrix(f"blk.{layer}.ffn_up.weight", INNER, WIDTH)
        matrix(f"blk.{layer}.ffn_down.weight", WIDTH, INNER)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def serve(path: Path) -> None:
    """Tell the address on standard output, and serve until standard input ends."""
    import xllamacpp

    write_model(path)
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.model_alias = {MODEL}
    params.n_ctx = CONTEXT_TOKENS * SLOTS
    params.n_parallel = SLOTS
    params.cpuparams.n_threads = 1
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.warmup = False
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)  # noqa: T201 (what the fixture reads)
    sys.stdin.read()


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
