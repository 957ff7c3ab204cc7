"""The one shape every benchmark reports in, and the one way it is printed."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One measurement: our figure and the floor's, measured in the same run, in `unit` (more is better).

    `floor` is None where nothing comparable stands beside it.
    """

    name: str
    ours: float
    floor: float | None
    unit: str

    @property
    def ratio(self) -> float | None:
        """Ours as a share of the floor."""
        return self.ours / self.floor if self.floor else None


def print_table(title: str, rows: Iterable[Row]) -> None:
    """Print the rows under their title, figures right-aligned, the ratio last."""
    kept = list(rows)
    width = max((len(row.name) for row in kept), default=0)
    print(title)
    print(f"  {'':{width}}  {'ours':>14}  {'floor':>14}  {'ratio':>6}")
    for row in kept:
        floor = "" if row.floor is None else f"{row.floor:,.0f}"
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        print(f"  {row.name:{width}}  {row.ours:>14,.0f}  {floor:>14}  {ratio:>6}  {row.unit}")
