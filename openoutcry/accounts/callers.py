"""Who calls: the account and tier behind a key or a login token."""

from collections.abc import Mapping

import msgspec

from openoutcry.accounts.accounts import Account, Accounts
from openoutcry.accounts.keys import KeyRecord, Keys
from openoutcry.config import TierConfig
from openoutcry.errors import Forbidden, Unauthenticated, Unknown


class Tier(msgspec.Struct, frozen=True):
    """How much a caller may use; None: as much as it likes."""

    name: str
    requests_per_min: int | None
    tokens_per_min: int | None


# Of keys that were made at the command line for nobody: whoever runs the server does not limit themselves.
OPERATOR = Tier("operator", None, None)


class Caller(msgspec.Struct, frozen=True):
    """Whoever calls. `key` None: by login token; `account` None: by a key of nobody's."""

    account: Account | None
    key: KeyRecord | None
    tier: Tier

    @property
    def id(self) -> str:
        """What limits are counted under: each key has its own, and the login tokens of an account one together."""
        if self.key is not None:
            return f"key {self.key.id}"
        assert self.account is not None
        return f"account {self.account.id}"


class Callers:
    """Knows callers by their credentials. `default`: the tier of accounts whose own was taken out of the settings."""

    def __init__(self, keys: Keys, accounts: Accounts, tiers: Mapping[str, TierConfig], default: str) -> None:
        self._keys = keys
        self._accounts = accounts
        self._tiers = {name: Tier(name, tier.requests_per_min, tier.tokens_per_min) for name, tier in tiers.items()}
        self._default = self._tiers[default]

    async def caller(self, credential: str | None, scope: str | None = None) -> Caller:
        """Whose the key or login token is. Raises Unauthenticated, with one text for all; Forbidden where a key lacks the
        scope. A login token may do all that its account may. Unavailable: the account is not known and cannot be read.
        """
        try:
            if credential is not None and credential.count(".") == 2:  # keys hold no dots, and JWT are three parts
                return self._of(await self._accounts.of_token(credential), None)
            key = self._keys.authenticate(credential)
            account = None if key.account is None else await self._accounts.get(key.account)
        except (Unauthenticated, Unknown) as e:
            raise Unauthenticated("a key or login token is needed, and there is none that is good") from e
        if scope is not None and scope not in key.scopes:
            raise Forbidden(f"the key lacks the scope {scope!r}")
        return self._of(account, key)

    def _of(self, account: Account | None, key: KeyRecord | None) -> Caller:
        tier = OPERATOR if account is None else self._tiers.get(account.tier, self._default)
        return Caller(account, key, tier)
