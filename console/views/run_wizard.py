"""The training wizard: model, data, method, where and for what price, start."""

from django.http import HttpResponse
from django.urls import reverse
from django.utils.translation import gettext as _

from accounts.choices import Capability
from common.errors import DomainError
from console import findings, offers, tuning
from console.pages import ConsoleRequest, console_page, done, show
from console.tuning import Wizard
from training.doctor.findings import KINDS

SHOWN_AT_ONCE = 12
FINDINGS_SHOWN = 8


@console_page(Capability.DEVELOP)
def run_create(request: ConsoleRequest) -> HttpResponse:
    """GET walks from step to step; POST of all answers starts the run."""
    is_post = request.method == "POST"
    values = (request.POST if is_post else request.GET).dict()
    if is_post:
        values["step"] = tuning.STEPS[-1]
    wizard = tuning.walk(organization=request.organization, values=values, now=request.now)
    if is_post and wizard.is_complete and "name" in wizard.answers:
        try:
            run = tuning.start(wizard, actor=request.actor)
        except DomainError as error:
            tuning.refuse(wizard, error)
        else:
            text = _("%(name)s starts as soon as accelerators are free.") % {"name": run.name}
            return done(request, text, reverse("console:run", args=[run.pk]))
    has_errors = wizard.form is not None and bool(wizard.form.errors)
    return show(
        request,
        "console/runs/create.html",
        {
            "title": _("New training run"),
            "lede": _("It is placed as soon as accelerators are free, and goes on if you leave."),
            "crumbs": [{"label": _("Training runs"), "url": reverse("console:runs")}],
            "wizard": wizard,
            "form": wizard.form,
            "part": f"console/runs/wizard/{wizard.step}.html",
            **_offered(request, wizard),
        },
        status=422 if has_errors and not request.headers.get("HX-Request") else 200,
    )


def _offered(request: ConsoleRequest, wizard: Wizard) -> dict[str, object]:
    """Cards of the first two steps: those that match, the newest, the chosen one."""
    if wizard.step == "start":
        return {"serious": [row for row in _findings(wizard) if row.tone == "bad"]}
    if wizard.step not in ("model", "data"):
        return {}
    name = "base" if wizard.step == "model" else "data"
    if name == "base":
        rows = offers.revisions(request.organization, adapters=False)
    else:
        rows = offers.dataset_versions(request.organization)
    query = request.GET.get("q", "").strip()
    chosen = wizard.values.get(name, "")
    matching = [row for row in rows if query.lower() in row[1].lower()]
    shown = matching[:SHOWN_AT_ONCE]
    shown += [row for row in rows if row[0] == chosen and row not in shown]
    return {
        "query": query,
        "shown": shown,
        "chosen": chosen or (shown[0][0] if len(shown) == 1 else ""),
        "more": max(len(matching) - SHOWN_AT_ONCE, 0),
        "is_filterable": len(rows) > SHOWN_AT_ONCE,
        "has_any": bool(rows),
        "found": _findings(wizard),
    }


def _findings(wizard: Wizard) -> list[findings.Row]:
    """What the check of the data found, by kind: what is serious first, then what is frequent."""
    if wizard.version is None:
        return []
    counts = wizard.version.report.get("findings", {})
    order = list(findings.SEVERITIES)
    kinds = sorted(
        (kind for kind in counts if kind in findings.WORDS and kind != "longest"),
        key=lambda kind: (order.index(KINDS[kind].severity), -counts[kind]),
    )
    return [findings.row_of(kind, counts[kind]) for kind in kinds[:FINDINGS_SHOWN]]
