"""A real server of language models, over the real client."""

import json

from openoutcry.transport import HttpClient
from tests.llm.llamacpp import LlamaCpp


async def test_the_server_answers_and_counts(llamacpp: LlamaCpp) -> None:
    http = HttpClient()
    asked = {"model": llamacpp.model, "messages": [{"role": "user", "content": "Up?"}], "max_tokens": 4}
    answer = await http.send("POST", f"{llamacpp.url}/chat/completions", body=json.dumps(asked).encode())
    await http.close()
    assert answer.status == 200
    assert json.loads(answer.body)["usage"]["completion_tokens"] == 4
