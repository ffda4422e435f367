"""What a deployment does now, for its page: from the gateways' signals to stats and charts."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from django.utils import timezone
from django.utils.translation import gettext as _

from console.charts import Chart, Series, line_chart
from deployments import signals
from deployments.models import Deployment
from deployments.signals import BUCKET_SECONDS, Totals

RECENT_SECONDS = 60
HISTORY_SECONDS = 840


@dataclass(frozen=True)
class Load:
    """What one replica does: requests in flight now, tokens a second over the last minute."""

    in_flight: int = 0
    tokens_per_second: float = 0.0


@dataclass(frozen=True)
class Traffic:
    """The last minute in figures, and charts of the last quarter of an hour. Rates are a second,
    times are milliseconds; None: nobody asked, or nobody knows."""

    in_flight: int | None
    held: int | None
    requests_per_second: float
    tokens_per_second: float
    error_share: float
    ttft_p50: float | None
    ttft_p95: float | None
    inter_token: float | None
    had_requests: bool
    charts: list[tuple[str, Chart]]  # (id, chart)
    by_replica: dict[UUID, Load] = field(default_factory=dict)


def read_traffic(
    deployment: Deployment, replica_ids: Sequence[UUID], *, now: datetime, csv_url: str = ""
) -> Traffic | None:
    """None if the counts cannot be read: Redis is away."""
    history = signals.read_history(replica_ids, seconds=HISTORY_SECONDS, at=now.timestamp())
    if history is None:
        return None
    window = signals.read_window(
        seconds=RECENT_SECONDS, replica_ids=replica_ids, at=now.timestamp()
    )
    present = signals.read_now()
    recent = window.of(replica_ids) if window is not None else Totals()
    seconds = window.seconds if window is not None and window.seconds else RECENT_SECONDS
    return Traffic(
        in_flight=None if present is None else present.in_flight_on(replica_ids),
        held=None if present is None else present.held_for(deployment.pk),
        requests_per_second=recent.requests / seconds,
        tokens_per_second=recent.output_tokens / seconds,
        error_share=recent.error_share,
        ttft_p50=_milliseconds(recent.first_token_seconds(0.5)),
        ttft_p95=_milliseconds(recent.first_token_seconds(0.95)),
        inter_token=_milliseconds(recent.inter_token_seconds),
        had_requests=any(totals.requests or totals.output_tokens for _at, totals in history),
        charts=_charts(history[:-1], csv_url=csv_url),  # the last bucket is not over yet
        by_replica={
            each: Load(
                in_flight=0 if present is None else present.in_flight_on([each]),
                tokens_per_second=(
                    0.0 if window is None else window.of([each]).output_tokens / seconds
                ),
            )
            for each in replica_ids
        },
    )


def rows(history: Sequence[tuple[int, Totals]]) -> list[list[object]]:
    """The history as lines of a table, oldest first."""
    return [
        [
            datetime.fromtimestamp(at, tz=timezone.get_current_timezone()).isoformat(),
            totals.requests,
            totals.errors,
            totals.input_tokens,
            totals.output_tokens,
            _milliseconds(totals.first_token_seconds(0.5)),
            _milliseconds(totals.first_token_seconds(0.95)),
            _milliseconds(totals.inter_token_seconds),
        ]
        for at, totals in history
    ]


COLUMNS = (
    "at",
    "requests",
    "errors",
    "input_tokens",
    "output_tokens",
    "ttft_p50_milliseconds",
    "ttft_p95_milliseconds",
    "inter_token_milliseconds",
)


def _charts(history: Sequence[tuple[int, Totals]], *, csv_url: str) -> list[tuple[str, Chart]]:
    if not history:
        return []
    ends_at = history[-1][0] + BUCKET_SECONDS

    def line(label: str, value: str, share: float | None = None) -> Series:
        points = []
        for at, totals in history:
            found = (
                _milliseconds(totals.first_token_seconds(share))
                if share is not None
                else getattr(totals, value) / BUCKET_SECONDS
            )
            if found is not None:
                points.append(((at - ends_at) / 60, found))
        return Series(label, points)

    x_title = _("Minutes from now")
    return [
        (
            "tokens",
            line_chart(
                title=_("Output tokens a second"),
                x_title=x_title,
                y_title=_("Tokens/s"),
                series=[line(_("Output tokens"), "output_tokens")],
                y_from_zero=True,
                csv_url=csv_url,
            ),
        ),
        (
            "first-token",
            line_chart(
                title=_("Time to the first token"),
                x_title=x_title,
                y_title=_("Milliseconds"),
                series=[
                    line(_("Half of the requests"), "", 0.5),
                    line(_("95 of 100 requests"), "", 0.95),
                ],
                y_from_zero=True,
                csv_url=csv_url,
            ),
        ),
    ]


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 1)
