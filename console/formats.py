"""How amounts, times and durations are written on every page, in the reader's language."""

from datetime import datetime, timedelta
from decimal import Decimal

from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

GIB = 1024**3


def number(value: float | Decimal | None, digits: int = 0) -> str:
    """Thousands apart by commas, `digits` after the point; a dash where there is no value."""
    if value is None or value == "":
        return "–"
    return f"{value:,.{digits}f}"


def share(value: float | Decimal | None) -> str:
    """Accelerators, of which a slot may be a part: as many digits as there are, two at most."""
    if value is None:
        return "–"
    text = f"{value:,.2f}"
    return text.rstrip("0").rstrip(".")


def byte_size(value: float | None) -> str:
    """Bytes in the largest binary unit that leaves at least one whole."""
    if value is None:
        return "–"
    size = float(value)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1024:
            return f"{size:.0f} B" if unit == "B" else f"{size:,.1f} {unit}"
        size /= 1024
    return f"{size:,.1f} TiB"


def count_short(value: float | None) -> str:
    """Large counts as people say them: 596 M, 7.6 B (parameters, tokens)."""
    if value is None:
        return "–"
    size = float(value)
    for bound, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(size) >= bound:
            return f"{size / bound:.3g} {unit}"
    return f"{size:.0f}"


def duration(seconds: float | timedelta | None) -> str:
    """A length of time in its two largest units."""
    if seconds is None:
        return "–"
    if isinstance(seconds, timedelta):
        seconds = seconds.total_seconds()
    if seconds < 10:
        return _("%(seconds)s s") % {"seconds": f"{max(seconds, 0):.1f}"}
    whole = round(seconds)
    if whole < 60:
        return _("%(seconds)s s") % {"seconds": whole}
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return _("%(minutes)s min %(seconds)s s") % {"minutes": minutes, "seconds": rest}
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return _("%(hours)s h %(minutes)s min") % {"hours": hours, "minutes": minutes}
    days, hours = divmod(hours, 24)
    return _("%(days)s d %(hours)s h") % {"days": days, "hours": hours}


def money(amount: Decimal | float | None, currency: str = "") -> str:
    """Two digits, or as many as a small price needs, and always the currency."""
    if amount is None:
        return "–"
    value = Decimal(amount)
    digits = 2 if value == 0 or abs(value) >= 1 else 4 if abs(value) >= Decimal("0.01") else 6
    text = f"{value:,.{digits}f}"
    while digits > 2 and text.endswith("0"):
        text, digits = text[:-1], digits - 1
    return f"{text} {currency}" if currency else text


def percent(share: float | None, digits: int = 1) -> str:
    """A share of one as per cent."""
    return "–" if share is None else f"{100 * share:.{digits}f} %"


def ago(moment: datetime, *, now: datetime) -> str:
    """How long ago, or how soon, in one unit."""
    seconds = (now - moment).total_seconds()
    if abs(seconds) < 45:
        return _("just now") if seconds >= 0 else _("in a moment")
    minutes, hours, days = (round(abs(seconds) / unit) for unit in (60, 3600, 86400))
    if minutes < 60:
        past = ngettext("%(n)s minute ago", "%(n)s minutes ago", minutes)
        future = ngettext("in %(n)s minute", "in %(n)s minutes", minutes)
        count = minutes
    elif hours < 36:
        past = ngettext("%(n)s hour ago", "%(n)s hours ago", hours)
        future = ngettext("in %(n)s hour", "in %(n)s hours", hours)
        count = hours
    else:
        past = ngettext("%(n)s day ago", "%(n)s days ago", days)
        future = ngettext("in %(n)s day", "in %(n)s days", days)
        count = days
    return (past if seconds >= 0 else future) % {"n": count}


def exact(moment: datetime) -> str:
    """The moment to the second, in the time zone in force, with its offset."""
    local = timezone.localtime(moment)
    offset = local.strftime("%z")
    return f"{local:%Y-%m-%d %H:%M:%S} UTC{offset[:3]}:{offset[3:]}"
