import random
from decimal import Decimal

from usage import amounts


def test_an_amount_is_rounded_once_half_up() -> None:
    def of(quantity: str, price: str) -> Decimal:
        return amounts.amount_of(Decimal(quantity), unit_price=Decimal(price), size=Decimal(10**6))

    assert of("1", "0.5") == Decimal("0.000001")  # half a millionth
    assert of("1", "0.499") == 0
    assert of("3", "0.5") == Decimal("0.000002")
    assert of("123456789", "2.5") == Decimal("308.641973")  # 308.6419725


def test_parts_add_up_and_none_is_a_millionth_off() -> None:
    chance = random.Random(7)
    for _ in range(300):
        weights = [Decimal(chance.randrange(10**6)) for _ in range(chance.randrange(1, 30))]
        amount = Decimal(chance.randrange(10**9)) * amounts.MILLIONTH
        parts = amounts.allot(amount, weights)
        assert sum(parts) == amount
        whole = sum(weights)
        if whole:
            for part, weight in zip(parts, weights, strict=True):
                assert abs(part - amount * weight / whole) < amounts.MILLIONTH
    assert amounts.allot(Decimal("0.000002"), [Decimal(1)] * 3) == [
        amounts.MILLIONTH,
        amounts.MILLIONTH,
        0,
    ]
    assert amounts.allot(Decimal(1), []) == []


def test_what_is_to_be_paid_is_in_whole_coins() -> None:
    assert amounts.payable(Decimal("0.005"), currency="USD") == Decimal("0.01")
    assert amounts.payable(Decimal("12.344999"), currency="CNY") == Decimal("12.34")
    assert amounts.payable(Decimal("1234.5"), currency="JPY") == Decimal(1235)
