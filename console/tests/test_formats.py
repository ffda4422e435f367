from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from django.utils import translation

from console import formats, markdown

NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.25, "0.2 s"), (59, "59 s"), (125, "2 min 5 s"), (7_260, "2 h 1 min"), (200_000, "2 d 7 h")],
)
def test_duration_has_its_two_largest_units(seconds: float, text: str) -> None:
    with translation.override("en"):
        assert formats.duration(seconds) == text


def test_bytes_and_counts_have_units() -> None:
    assert formats.byte_size(512) == "512 B"
    assert formats.byte_size(3 * 1024**3) == "3.0 GiB"
    assert formats.count_short(3_700_000) == "3.7 M"
    assert formats.number(1234567) == "1,234,567"
    assert formats.number(None) == "–"


def test_money_shows_small_prices() -> None:
    assert formats.money(Decimal("1234.5"), "CNY") == "1,234.50 CNY"
    assert formats.money(Decimal("0.000012"), "CNY") == "0.000012 CNY"
    assert formats.money(Decimal("0.1"), "CNY") == "0.10 CNY"


def test_ago_looks_back_and_ahead() -> None:
    with translation.override("en"):
        assert formats.ago(NOW - timedelta(seconds=5), now=NOW) == "just now"
        assert formats.ago(NOW - timedelta(minutes=1), now=NOW) == "1 minute ago"
        assert formats.ago(NOW + timedelta(hours=3), now=NOW) == "in 3 hours"


def test_markdown_is_harmless() -> None:
    html = markdown.render(
        "# Card\n<script>alert(1)</script>\n[x](javascript:alert(1)) "
        '<img src=x onerror="alert(1)"> [site](https://example.com)'
    )
    assert "<h2>Card</h2>" in html
    assert "<script" not in html
    assert "<img" not in html
    assert 'href="javascript' not in html
    assert 'href="https://example.com"' in html


def test_shares_of_accelerators_show_what_there_is() -> None:
    assert [formats.share(value) for value in (1.25, 1.0, Decimal("0.5"), 10)] == [
        "1.25",
        "1",
        "0.5",
        "10",
    ]
