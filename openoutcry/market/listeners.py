"""Who is told of one thing; when the last of them leaves, it ends."""

from collections.abc import Callable
from typing import Generic, TypeVar

_T = TypeVar("_T")


class Listeners(Generic[_T]):
    """Plain functions, told in the order they came. `ended` is called when the last one left."""

    def __init__(self, ended: Callable[[], None]) -> None:
        self._ended = ended
        self._all: tuple[Callable[[_T], None], ...] = ()

    def join(self, listener: Callable[[_T], None]) -> Callable[[], None]:
        """Tell it from now on. Returns the way to leave; a second call of that does nothing."""
        self._all = (*self._all, listener)
        left = False

        def leave() -> None:
            nonlocal left
            if left:
                return
            left = True
            at = self._all.index(listener)
            self._all = self._all[:at] + self._all[at + 1 :]
            if not self._all:
                self._ended()

        return leave

    def tell(self, what: _T) -> None:
        """Tell all of them."""
        for listener in self._all:
            listener(what)
