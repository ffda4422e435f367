"""A statement as PDF, in the language that is active."""

import io
import zoneinfo
from decimal import Decimal
from typing import Any
from xml.sax.saxutils import escape

from django.utils.translation import gettext as _

from usage.choices import Item
from usage.statements import Line, Statement

# One of the fonts for Chinese that PDF readers bring along (Adobe-GB1): nothing is embedded.
FONT = "STSong-Light"
MARGIN = 50  # points
WIDTHS = (105, 160, 85, 75, 70)


def render(found: Statement) -> bytes:
    """A4, as many pages as it takes."""
    # Here: the library and its fonts take memory that web processes otherwise do without.
    from reportlab.lib.pagesizes import A4
    from reportlab.lib.styles import ParagraphStyle
    from reportlab.pdfbase import pdfmetrics
    from reportlab.pdfbase.cidfonts import UnicodeCIDFont
    from reportlab.platypus import Paragraph, SimpleDocTemplate, Spacer, Table

    pdfmetrics.registerFont(UnicodeCIDFont(FONT))
    small = ParagraphStyle("small", fontName=FONT, fontSize=8.5, leading=11, wordWrap="CJK")
    right = ParagraphStyle("right", parent=small, alignment=2)
    plain = ParagraphStyle("plain", parent=small, fontSize=10, leading=14)
    title = ParagraphStyle("title", parent=small, fontSize=18, leading=24)

    def cells(texts: list[str]) -> list[Any]:
        styles = (small, small, right, right, right)
        return [Paragraph(escape(text), style) for text, style in zip(texts, styles, strict=True)]

    zone = zoneinfo.ZoneInfo(found.organization.time_zone)
    first, last = found.start.astimezone(zone), found.end.astimezone(zone)
    heads = [_("Item"), _("For"), _("Quantity"), _("Price"), _("Amount")]
    rows = [cells(heads), *(cells(_texts(line)) for line in found.lines)]
    table = Table(rows, colWidths=WIDTHS, repeatRows=1, style=_rules())
    name = found.number or _("not issued")
    story: list[Any] = [
        Paragraph(escape(_("Statement %(number)s") % {"number": name}), title),
        Paragraph(escape(found.organization.name), plain),
        Paragraph(f"{first:%Y-%m-%d %H:%M} - {last:%Y-%m-%d %H:%M} {zone.key}", plain),
        Paragraph(escape(_standing(found, zone)), plain),
        Spacer(1, 14),
        table if found.lines else Paragraph(_("Nothing was used in this month."), plain),
        Spacer(1, 14),
    ]
    total_word, due_word = _("Total"), _("To be paid")
    for currency, total in found.totals.items():
        story.append(Paragraph(escape(f"{total_word}: {_plain(total)} {currency}"), plain))
    due = f"{due_word}: {_plain(found.payable)} {found.currency}"
    story.append(Paragraph(escape(due), title))
    target = io.BytesIO()
    document = SimpleDocTemplate(
        target,
        pagesize=A4,
        leftMargin=MARGIN,
        rightMargin=MARGIN,
        topMargin=MARGIN,
        bottomMargin=MARGIN,
        title=f"{found.organization.slug} {first:%Y-%m}",
        author="AI Factory",
    )
    document.build(story, onFirstPage=_foot, onLaterPages=_foot)
    return target.getvalue()


def _standing(found: Statement, zone: zoneinfo.ZoneInfo) -> str:
    if found.issued_at is not None:
        when = f"{found.issued_at.astimezone(zone):%Y-%m-%d %H:%M}"
        return _("Issued %(when)s") % {"when": when}
    return _("every hour is sealed") if found.is_final else _("So far: it grows with use")


def _texts(line: Line) -> list[str]:
    what = line.what
    about = ", ".join(
        filter(
            None,
            (
                what.model_name or what.subject_name,
                what.purpose,
                what.accelerator_type_slug,
                what.pool_name,
                what.of_month,
            ),
        )
    )
    price = ""
    if line.unit_price is not None:
        price = f"{_plain(line.unit_price)} {line.currency} / {line.price_unit}"
    quantity = _plain(line.quantity)
    if line.free_quantity:
        quantity += " " + _("(%(free)s free)") % {"free": _plain(line.free_quantity)}
    amount = f"{_plain(line.amount)} {line.currency}" if line.amount is not None else "–"
    return [str(Item(what.item).label), about, quantity, price, amount]


def _plain(amount: Decimal) -> str:
    """No exponent, no zeros that say nothing."""
    text = f"{amount:,f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _rules() -> Any:
    from reportlab.lib import colors
    from reportlab.platypus import TableStyle

    return TableStyle(
        [
            ("VALIGN", (0, 0), (-1, -1), "TOP"),
            ("LINEBELOW", (0, 0), (-1, 0), 0.8, colors.black),
            ("LINEBELOW", (0, 1), (-1, -1), 0.25, colors.lightgrey),
        ]
    )


def _foot(canvas: Any, document: Any) -> None:
    canvas.setFont(FONT, 8)
    canvas.drawRightString(document.pagesize[0] - MARGIN, MARGIN / 2, str(canvas.getPageNumber()))
