"""How money is rounded, in one place.

1. An amount is worked out exactly and rounded once, half up, to a millionth of the currency: a
   token costs less than a cent.
2. A total is the sum of the rounded amounts of its lines, never rounded itself.
3. A line's amount is shared among keys, models, cost centres or days in proportion to what each
   used, in whole millionths: each gets its share rounded down, and what is left goes, a millionth
   each, to those who lost most by that. So every way to share it adds up to the same total.
4. What is to be paid is the total, rounded half up to the smallest coin of the currency.
"""

from collections.abc import Sequence
from decimal import ROUND_HALF_UP, Decimal

MILLIONTH = Decimal("0.000001")
WITHOUT_COINS = frozenset({"CLP", "ISK", "JPY", "KRW", "VND"})  # ISO 4217: no minor unit


def amount_of(quantity: Decimal, *, unit_price: Decimal, size: Decimal) -> Decimal:
    """What `quantity` costs at `unit_price` for each `size` of it."""
    return (quantity * unit_price / size).quantize(MILLIONTH, ROUND_HALF_UP)


def allot(amount: Decimal, weights: Sequence[Decimal]) -> list[Decimal]:
    """`amount`, a number of millionths, in parts that go with `weights` (none below 0) and add up
    to it."""
    units, whole = int(amount / MILLIONTH), sum(weights, Decimal(0))
    if not weights or not whole:
        return [amount, *[Decimal(0)] * (len(weights) - 1)] if weights else []
    exact = [units * weight / whole for weight in weights]
    parts = [int(each // 1) for each in exact]
    order = sorted(range(len(parts)), key=lambda index: (parts[index] - exact[index], index))
    for index in order[: units - sum(parts)]:
        parts[index] += 1
    return [part * MILLIONTH for part in parts]


def payable(total: Decimal, *, currency: str) -> Decimal:
    """The total in whole coins."""
    coin = Decimal(1) if currency in WITHOUT_COINS else Decimal("0.01")
    return total.quantize(coin, ROUND_HALF_UP)
