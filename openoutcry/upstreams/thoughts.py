r"""What some servers send at the head of the content, between <think> and </think>, told apart from what is said.

    "<think>\nUp or down? Up.\n</think>\n\nUp."      thought "Up or down? Up.\n", said "Up."

Such a mark is one only before anything was said: later it may be what the answer is about.
"""

OPENS, CLOSES = "<think>", "</think>"
# White space before anything is said that is no longer waited through.
WHITE_MAX = 1_000


class Thoughts:
    """One content, in pieces."""

    def __init__(self) -> None:
        # What may be the beginning of a mark, or white space before one.
        self._held = ""
        self._thinks = False
        self._speaks = False
        # White space at the head of thoughts, and after them, says nothing.
        self._fresh = False

    def feed(self, piece: str) -> tuple[str, str]:
        """What is said and what was thought with this piece, as far as it is known."""
        if self._speaks:
            return piece, ""
        held, self._held = self._held + piece, ""
        thought = ""
        while held:
            if self._thinks:
                inner, closed, after = held.partition(CLOSES)
                if not closed:
                    kept = _begun(held, CLOSES)
                    thought += self._thought(held[: len(held) - kept])
                    self._held = held[len(held) - kept :]
                    break
                thought += self._thought(inner)
                self._thinks, self._fresh, held = False, True, after
                continue
            stripped = held.lstrip()
            white = 0 if self._fresh else len(held) - len(stripped)
            if white <= WHITE_MAX and stripped.startswith(OPENS):
                self._thinks, self._fresh, held = True, True, stripped[len(OPENS) :]
                continue
            if white <= WHITE_MAX and OPENS.startswith(stripped):
                self._held = stripped if self._fresh else held
                break
            self._speaks = True
            return (stripped if self._fresh else held), thought
        return "", thought

    def end(self) -> tuple[str, str]:
        """What was held back."""
        held, self._held = self._held, ""
        if self._thinks:
            return "", self._thought(held)
        return held, ""

    def _thought(self, text: str) -> str:
        if self._fresh:
            text = text.lstrip()
            self._fresh = not text
        return text


def _begun(text: str, mark: str) -> int:
    """How many characters at the end of the text may begin the mark."""
    return next((size for size in range(min(len(mark) - 1, len(text)), 0, -1) if mark.startswith(text[-size:])), 0)
