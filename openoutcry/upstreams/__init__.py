"""Providers of language models: request out, answer in. One file a provider's API, one line in UPSTREAMS."""

from collections.abc import Callable, Mapping

from openoutcry.upstreams.openai import OpenAi
from openoutcry.upstreams.upstream import Upstream

UPSTREAMS: Mapping[str, Callable[[], Upstream]] = {
    "openai": OpenAi,
}
