"""One dataset version: what the check found, what is in it, what training on it would take."""

from typing import Any
from uuid import UUID

from django.core.paginator import Paginator
from django.http import HttpResponse
from django.urls import reverse
from django.utils.http import urlencode
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST

from accounts.choices import Capability
from common.errors import DomainError
from console import dataset_plan, dataset_report, findings, offers
from console.dataset_pages import crumbs_of, find_version, refusal_of, title_of, told
from console.pages import ConsoleRequest, console_page, done, refuse, show_live
from console.views import benchmarks
from training import selectors, services
from training.choices import CountStatus, DatasetKind, VersionStatus
from training.models import DatasetSplit, DatasetVersion, TokenCount

ERRORS_A_PAGE = 25
TRAIN = "train"


@console_page()
def version_detail(request: ConsoleRequest, version_id: UUID) -> HttpResponse:
    version = find_version(request, version_id)
    if version.kind == DatasetKind.LM_TASK:
        return benchmarks.show_task(request, version)
    is_checking = version.status == VersionStatus.CHECKING
    context = {
        "title": title_of(version),
        "crumbs": crumbs_of(version)[:-1],
        "actions": "console/datasets/_version_actions.html",
        "version": version,
        "is_checking": is_checking,
        "is_ready": version.status == VersionStatus.READY,
        "report": version.report,
        "sources": version.sources.all(),
    }
    is_moving = is_checking
    if is_checking:
        context["pace"] = _pace(request, version)
    elif version.status == VersionStatus.READY:
        counted = _counted(request, version)
        context |= _figures(request, version, counted)
        is_moving = counted is not None and counted.status == CountStatus.COUNTING
    else:
        context |= _errors(request, version)
    return show_live(
        request,
        "console/datasets/version.html",
        "components/dataset_version.html",
        context,
        moving=is_moving,
    )


@require_POST
@console_page(Capability.DEVELOP)
def version_count(request: ConsoleRequest, version_id: UUID) -> HttpResponse:
    """Ask for the tokens as another model counts them."""
    version = find_version(request, version_id)
    to = reverse("console:dataset_version", args=[version.pk])
    asked = request.POST.get("tokenizer", "")
    try:
        row = services.count_tokens(
            organization=request.organization,
            version_id=version.pk,
            revision_id=UUID(asked),
            actor=request.actor,
            now=request.now,
        )
    except ValueError:
        return done(request, _("Choose the model that is to count."), to)
    except DomainError as error:
        return refuse(request, error, to)
    query = urlencode({"tokenizer": asked, "limit": request.POST.get("limit", "")})
    text = _("%(name)s counts the tokens.") % {"name": row.revision}
    return done(request, text, f"{to}?{query}#lengths")


def _pace(request: ConsoleRequest, version: DatasetVersion) -> dict[str, Any]:
    """How far the check is, how long it has been at it, and how much longer it may take."""
    seconds = max((request.now - version.created_at).total_seconds(), 0.0)
    expected = version.report.get("lines_expected") or 0
    done = min(version.lines_done, expected)
    return {
        "seconds": seconds,
        "expected": expected,
        "done": done,
        "left": seconds * (expected - done) / done if 0 < done < expected else None,
        "size_bytes": sum(source.size_bytes for source in version.sources.all()),
    }


def _errors(request: ConsoleRequest, version: DatasetVersion) -> dict[str, Any]:
    """A page of the first 1,000 errors, each with the way to its line."""
    errors = version.report.get("errors", [])
    page = Paginator(errors, ERRORS_A_PAGE).get_page(request.GET.get("page"))
    url = reverse("console:dataset_version_source", args=[version.pk])
    kept = {source.name for source in version.sources.all()}
    return {
        "page": page,
        "refusal": refusal_of(version),
        "errors_total": version.report.get("errors_total", len(errors)),
        "errors_listed": len(errors),
        "errors": [
            told(error)
            | {
                "url": f"{url}?{urlencode({'source': error['split'], 'line': error['line']})}#line-{error['line']}"
                if error["split"] in kept
                else ""
            }
            for error in page
        ],
    }


def _counted(request: ConsoleRequest, version: DatasetVersion) -> TokenCount | None:
    """The count by the model that the query names, where it is not the upload's own."""
    asked = request.GET.get("tokenizer", "")
    if not asked or asked == str(version.tokenizer_revision_id):
        return None
    try:
        return selectors.list_token_counts(version).filter(revision_id=UUID(asked)).first()
    except ValueError:
        return None


def _figures(
    request: ConsoleRequest, version: DatasetVersion, counted: TokenCount | None
) -> dict[str, Any]:
    report = version.report
    limit = _limit(request)
    asked = request.GET.get("tokenizer", "") or str(version.tokenizer_revision_id or "")
    is_own = asked == str(version.tokenizer_revision_id or "")
    splits = []
    for split in sorted(version.splits.all(), key=lambda one: (one.name != TRAIN, one.name)):
        checked = report.get("splits", {}).get(split.name, {})
        lengths = checked if is_own else counted.splits.get(split.name, {}) if counted else {}
        splits.append(
            {
                "row": split,
                "checked": checked,
                "lengths": lengths,
                "chart": dataset_report.histogram(split, lengths),
                "cut": dataset_report.cut_at(split.examples, lengths, limit),
                "labels": dataset_report.label_fields(version, split.name),
            }
        )
    counts = dict(report.get("findings", {})) | {"longest": 0}
    return {
        "splits": splits,
        "examples": sum(one["row"].examples for one in splits),
        "tokens": _token_sum([one["row"].token_count for one in splits]),
        "groups": findings.grouped(counts),
        "found": sum(counts.values()),
        "leaks": dataset_report.leaks(version),
        "compared": _compared(request, version),
        "counted": counted,
        "tokenizer": asked,
        "is_own": is_own,
        "tokenizers": offers.revisions(request.organization, adapters=False),
        "limit": limit,
        "limits": dataset_report.LIMITS,
        "plan": dataset_plan.make(request, version),
        "runs": version.training_runs.order_by("-created_at")[:10],
    }


def _limit(request: ConsoleRequest) -> int:
    asked = request.GET.get("limit", "")
    known = {str(limit): limit for limit in dataset_report.LIMITS}
    return known.get(asked) or dataset_report.USUAL_LIMIT


def _compared(request: ConsoleRequest, version: DatasetVersion) -> list[dict[str, Any]]:
    """The sets of evaluations that it was compared with, and how many examples are in both."""
    told = version.report.get("compared_with", [])
    rows = DatasetSplit.objects.filter(
        version__dataset__organization=request.organization,
        pk__in=[one["split_id"] for one in told],
    ).select_related("version__dataset")
    there = {str(row.pk): row for row in rows}
    shared: dict[str, int] = {}
    for one in version.report.get("leakage", []):
        for name in one["splits"]:
            shared[name] = shared.get(name, 0) + one["examples"]
    return [
        {
            "name": one["name"],
            "examples": one["examples"],
            "split": there.get(one["split_id"]),
            "shared": shared.get(one["split_id"], 0),
        }
        for one in told
    ]


def _token_sum(counts: list[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if known else None
