"""What there is: types, exchanges, categories, coins and symbols of the series that are stored or growing."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from openoutcry.api.kiyotaka import contract, names
from openoutcry.api.kiyotaka.catalogue import Catalogue
from openoutcry.api.kiyotaka.wire import MetaQuestion
from openoutcry.instrument import Instrument

# Each method fills its own list, and that alone.
FIELDS: Mapping[str, str] = {
    "GetTypes": "types",
    "GetExchanges": "exchanges",
    "GetCategories": "categories",
    "GetCoins": "coins",
    "GetRawSymbols": "rawSymbols",
    "GetNormalizedSymbols": "normalizedSymbols",
}
_Found = tuple[names.Sort, Instrument, Sequence[int]]
_SAYS: Mapping[str, Callable[[_Found], Iterable[int | str]]] = {
    "types": lambda found: (found[0].number,),
    "exchanges": lambda found: found[2],
    "categories": lambda found: (names.CATEGORY_NUMBER[found[1].kind],),
    "coins": lambda found: (found[1].coin.upper(),),
    "rawSymbols": lambda found: (found[1].symbol,),
    "normalizedSymbols": lambda found: (names.normalized(found[1]),),
}


class Meta:
    """Answers the six questions."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue

    async def answer(self, method: str, asked: MetaQuestion) -> contract.Message:
        """PointMetaResponse: distinct values, numbers and texts in order."""
        field = FIELDS[method]
        says = _SAYS[field]
        told = {value for found in await self._catalogue.stored(asked) for value in says(found)}
        return contract.PointMetaResponse(**{field: sorted(told)})
