"""What was thought and what is said come apart, however the content is cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openoutcry.upstreams.thoughts import WHITE_MAX, Thoughts


def told(*pieces: str) -> tuple[str, str]:
    thoughts = Thoughts()
    parts = [*map(thoughts.feed, pieces), thoughts.end()]
    return "".join(text for text, _ in parts), "".join(thought for _, thought in parts)


@pytest.mark.parametrize(
    ("content", "said", "thought"),
    [
        ("Up.", "Up.", ""),
        ("<think>\nUp?\n</think>\n\nUp.", "Up.", "Up?\n"),
        ("\n <think>a</think>b", "b", "a"),
        ("<think>\n\n</think>\n\nUp.", "Up.", ""),
        ("<think>a</think>\n<think> b</think> c", "c", "ab"),
        ("<think>never ends </thin", "", "never ends </thin"),
        ("<think>a < b </b> </think>c", "c", "a < b </b> "),
        ("<think>a</think>", "", "a"),
        ("In HTML, <think>x</think> is nothing.", "In HTML, <think>x</think> is nothing.", ""),
        ("<thi", "<thi", ""),
        ("<thinking>", "<thinking>", ""),
        ("</think> b", "</think> b", ""),
        ("  \n", "  \n", ""),
        ("  a", "  a", ""),
        ("", "", ""),
        (" " * (WHITE_MAX + 1) + "<think>a", " " * (WHITE_MAX + 1) + "<think>a", ""),
        (" " * WHITE_MAX + "<think>a", "", "a"),
        ("<think>a</think>" + " " * 2_000 + "b", "b", "a"),
    ],
)  # fmt: skip
def test_thoughts_stand_at_the_head(content: str, said: str, thought: str) -> None:
    assert told(content) == (said, thought)
    assert told(*content) == (said, thought)
    for at in range(len(content) + 1):
        assert told(content[:at], "", content[at:]) == (said, thought)


@given(
    st.lists(st.sampled_from(["<think>", "</think>", "<", "think", ">", "/", " ", "\n", "a"]), max_size=20), st.data()
)
def test_any_cut_gives_the_same(pieces: list[str], data: st.DataObject) -> None:
    content = "".join(pieces)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(content)), max_size=8)))
    assert told(*(content[a:b] for a, b in zip([0, *cuts], [*cuts, len(content)], strict=True))) == told(content)


def test_what_is_said_is_not_held_back() -> None:
    thoughts = Thoughts()
    assert thoughts.feed("<think>a") == ("", "a")
    assert thoughts.feed("b</think>c") == ("c", "b")
    assert thoughts.feed("<") == ("<", "")
