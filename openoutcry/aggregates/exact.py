"""Sums that are exact or refused: never rounded, whatever the numbers a venue sends.

`ENTRY` is for numbers as they come in: a result that needs more than 100 digits, or is absurdly large or small, raises
`decimal.DecimalException`. `SUM` adds up what `ENTRY` let in: its digits reach from the largest to the smallest of them.
"""

from decimal import Context, DivisionByZero, Inexact, InvalidOperation, Overflow, Subnormal

ENTRY_DIGITS_MAX = 100
EXPONENT_MAX = 60
# What ENTRY lets in has no digit below 10^-(60 + 100) and stays below 10^61; the rest is room for the number of summands.
SUM_DIGITS_MAX = EXPONENT_MAX + EXPONENT_MAX + ENTRY_DIGITS_MAX + 40

ENTRY = Context(
    prec=ENTRY_DIGITS_MAX,
    Emin=-EXPONENT_MAX,
    Emax=EXPONENT_MAX,
    traps=[Inexact, Subnormal, Overflow, InvalidOperation, DivisionByZero],
)
SUM = Context(prec=SUM_DIGITS_MAX, traps=[Inexact, Overflow, InvalidOperation, DivisionByZero])
