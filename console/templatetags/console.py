"""Tags and filters that every page shares."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from decimal import Decimal

from django import template
from django.http import HttpRequest
from django.template.context import Context
from django.templatetags.static import static
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString, mark_safe
from django.utils.translation import gettext

from chips.choices import Purpose
from common import texts
from console import formats, markdown, offers, statuses
from console.run_forms import METHODS
from training.models import DatasetSplit, TrainingRun

register = template.Library()

THEMES = ("system", "light", "dark")


@register.simple_tag
def icon(name: str) -> SafeString:
    """A picture for the eye only: the words stand beside it."""
    return format_html(
        '<svg class="icon" width="20" height="20" aria-hidden="true" focusable="false"><use href="{}#{}"></use></svg>',
        static("console/icons.svg"),
        name,
    )


@register.simple_tag(takes_context=True)
def theme(context: Context) -> str:
    """The theme this browser asked for: system, light or dark."""
    request: HttpRequest | None = context.get("request")
    chosen = request.COOKIES.get("theme", "") if request is not None else ""
    return chosen if chosen in THEMES else "system"


@register.inclusion_tag("components/status_badge.html")
def status_badge(status: str) -> dict[str, object]:
    return {"look": statuses.look_of(str(status or ""))}


@register.inclusion_tag("components/copy_id.html")
def copy_id(value: object, text: str = "") -> dict[str, object]:
    """An identifier in monospace with a copy button; long ones are shortened, copied whole."""
    whole = str(value)
    shown = text or (whole if len(whole) <= 16 else f"{whole[:8]}…{whole[-4:]}")
    return {"whole": whole, "shown": shown}


@register.filter
def when(moment: datetime | None) -> SafeString | str:
    """`3 minutes ago`, with the exact time on hover and for machines."""
    if moment is None:
        return "–"
    return format_html(
        '<time datetime="{}" title="{}">{}</time>',
        moment.isoformat(timespec="seconds"),
        formats.exact(moment),
        formats.ago(moment, now=timezone.now()),
    )


@register.filter
def exact(moment: datetime | None) -> str:
    return "–" if moment is None else formats.exact(moment)


@register.filter
def shown(text: str) -> str:
    """What a service said, in the reader's language."""
    return texts.shown(text)


@register.filter
def number(value: float | Decimal | None, digits: int = 0) -> str:
    return formats.number(value, digits)


@register.filter
def share(value: float | Decimal | None) -> str:
    return formats.share(value)


@register.filter
def byte_size(value: float | None) -> str:
    return formats.byte_size(value)


@register.filter
def count_short(value: float | None) -> str:
    return formats.count_short(value)


@register.filter
def duration(value: float | timedelta | None) -> str:
    return formats.duration(value)


@register.filter
def money(value: Decimal | None, currency: str = "") -> str:
    return formats.money(value, currency)


@register.filter
def percent(value: float | None, digits: int = 1) -> str:
    return formats.percent(value, digits)


@register.filter
def safe_markdown(text: str) -> SafeString:
    """Markdown as HTML with everything but plain text markup taken out."""
    return mark_safe(markdown.render(text))  # noqa: S308 - cleaned by nh3 in render


@register.simple_tag(takes_context=True)
def live(context: Context) -> SafeString:
    """Attributes of a part that asks for itself again, at the pace the view set."""
    request: HttpRequest = context["request"]
    return _polled("live", request.get_full_path(), int(context.get("poll_seconds") or 15))


@register.simple_tag
def follows(part_id: str, url: str, seconds: int) -> SafeString:
    """Attributes of one part of several that ask for themselves; with no seconds it rests."""
    return _polled(part_id, url, seconds) if seconds else format_html('id="{}"', part_id)


def _polled(part_id: str, url: str, seconds: int) -> SafeString:
    return format_html(
        'id="{}" hx-get="{}" hx-trigger="poll" hx-swap="outerHTML" data-poll-seconds="{}"',
        part_id,
        url,
        seconds,
    )


@register.filter
def time_left(seconds: float | None) -> str:
    """`3 min 2 s left`; nothing where it is not known."""
    if seconds is None:
        return ""
    return gettext("%(left)s left") % {"left": formats.duration(seconds)}


@register.filter
def token_sum(splits: Iterable[DatasetSplit]) -> int | None:
    """The tokens of all splits; None where none was counted."""
    known = [split.token_count for split in splits if split.token_count is not None]
    return sum(known) if known else None


@register.filter
def run_seconds(run: TrainingRun) -> float | None:
    """From start to end."""
    if run.started_at is None or run.ended_at is None:
        return None
    return (run.ended_at - run.started_at).total_seconds()


@register.filter
def event_word(kind: str) -> str:
    return statuses.event_word(kind)


@register.filter
def engine_word(engine: str) -> str:
    return offers.engine_name(engine)


@register.filter
def method_word(method: str) -> str:
    return str(dict(METHODS).get(method, method))


@register.filter
def purpose_word(purpose: str) -> str:
    return str(dict(Purpose.choices).get(purpose, purpose or "–"))


@register.filter
def element_id(value: object, kind: str) -> str:
    """The id of an element of its kind: `dialog-<value>`, `chart-<value>`."""
    return f"{kind}-{value}"


@register.filter
def unit_word(unit: str) -> str:
    """What a price is for, in the reader's language."""
    words = {
        "million tokens": gettext("million tokens"),
        "accelerator-hour": gettext("accelerator-hour"),
    }
    return words.get(unit, unit)
