"""The dialects we answer in: one folder and one line each."""

from collections.abc import Callable, Mapping

from openoutcry.api.agentk.rest import Agentk
from openoutcry.api.dialect import Dialect, Doors
from openoutcry.api.hyperoru.rest import Hyperoru
from openoutcry.api.kiyotaka.rest import Kiyotaka
from openoutcry.api.lykke.rest import Lykke
from openoutcry.api.takashi.rest import Takashi

DIALECTS: Mapping[str, Callable[[Doors], Dialect]] = {
    "takashi": Takashi,
    "kiyotaka": Kiyotaka,
    "hyperoru": Hyperoru,
    "agentk": Agentk,
    "lykke": Lykke,
}
