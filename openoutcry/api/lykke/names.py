"""Lykke's words and numbers: errors, sides, statuses, modes, and which of ours they are."""

from collections.abc import Mapping
from typing import Literal

from openoutcry.orders import CancelMode, Status

SUCCESS, RUNTIME_ERROR, ITEM_NOT_FOUND, INVALID_FIELD, ACTION_FORBIDDEN = 0, 1001, 1100, 1101, 1102
ME_UNKNOWN_ASSET, ME_NOT_FOUND, ME_RUNTIME = 2004, 2009, 2023

# Every error of the contract by its number: its word, and what is said of it.
ERRORS: Mapping[int, tuple[str, str]] = {
    SUCCESS: ("success", ""),
    RUNTIME_ERROR: ("runtimeError", "Runtime error"),
    ITEM_NOT_FOUND: ("itemNotFound", "Not found"),
    INVALID_FIELD: ("invalidField", "Invalid field"),
    ACTION_FORBIDDEN: ("actionForbidden", "Action forbidden"),
    2000: ("meBadRequest", "Bad request"),
    2001: ("meLowBalance", "Low balance"),
    2002: ("meAlreadyProcessed", "Already processed"),
    2003: ("meDisabledAsset", "Asset is disabled"),
    ME_UNKNOWN_ASSET: ("meUnknownAsset", "Unknown asset"),
    2005: ("meNoLiquidity", "No liquidity"),
    2006: ("meNotEnoughFunds", "Not enough funds"),
    2007: ("meDust", "Dust"),
    2008: ("meReservedVolumeHigherThanBalance", "Reserved volume higher than balance"),
    ME_NOT_FOUND: ("meNotFound", "Not found"),
    2010: ("meBalanceLowerThanReserved", "Balance lower than reserved"),
    2011: ("meLeadToNegativeSpread", "Lead to negative spread"),
    2012: ("meTooSmallVolume", "Too small volume"),
    2013: ("meInvalidFee", "Invalid fee"),
    2014: ("meInvalidPrice", "Invalid price"),
    2015: ("meReplaced", "Replaced"),
    2016: ("meNotFoundPrevious", "Not found previous"),
    2017: ("meDuplicate", "Duplicate"),
    2018: ("meInvalidVolumeAccuracy", "Invalid volume accuracy"),
    2019: ("meInvalidPriceAccuracy", "Invalid price accuracy"),
    2020: ("meInvalidVolume", "Invalid volume"),
    2021: ("meTooHighPriceDeviation", "Too high price deviation"),
    2022: ("meInvalidOrderValue", "Invalid order value"),
    ME_RUNTIME: ("meRuntime", "ME not available"),
}

# The number of each of our codes. What is not listed is two errors: see `number`.
NUMBERS: Mapping[str, int] = {
    "unknown_pair": ME_UNKNOWN_ASSET,
    "unknown_asset": ME_UNKNOWN_ASSET,
    "unknown_order": ITEM_NOT_FOUND,
    "invalid_field": INVALID_FIELD,
    "action_forbidden": ACTION_FORBIDDEN,
    "low_balance": 2001,
    "disabled": 2003,
    "no_liquidity": 2005,
    "not_enough_funds": 2006,
    "not_found": ME_NOT_FOUND,
    "negative_spread": 2011,
    "too_small_volume": 2012,
    "invalid_fee": 2013,
    "invalid_price": 2014,
    "not_found_previous": 2016,
    "duplicate": 2017,
    "invalid_volume_accuracy": 2018,
    "invalid_price_accuracy": 2019,
    "invalid_volume": 2020,
    "too_high_price_deviation": 2021,
    "invalid_order_value": 2022,
    "runtime": ME_RUNTIME,
}


def number(code: str, field: str | None = None) -> int:
    """The number of a code of ours. What a question's `field` names is not found; what the engine has not is unknown to it."""
    return ITEM_NOT_FOUND if field is not None and _FIELDS.get(code) == field else NUMBERS[code]


_FIELDS: Mapping[str, str] = {"unknown_pair": "assetPairId", "unknown_asset": "assetId"}


StatusWord = Literal["Placed", "PartiallyMatched", "Matched", "Cancelled", "Replaced"]
STATUSES: Mapping[Status, StatusWord] = {
    Status.PLACED: "Placed",
    Status.PARTIALLY_MATCHED: "PartiallyMatched",
    Status.MATCHED: "Matched",
    Status.CANCELLED: "Cancelled",
    Status.REPLACED: "Replaced",
}

# In the order of their numbers.
CANCEL_MODES: Mapping[str, CancelMode] = {
    "notEmptySide": CancelMode.NOT_EMPTY_SIDE,
    "bothSides": CancelMode.BOTH_SIDES,
    "sellSide": CancelMode.SELL_SIDE,
    "buySide": CancelMode.BUY_SIDE,
}
# Whether it buys.
SIDES: Mapping[str, bool] = {"buy": True, "sell": False}
