"""The audit log: who changed what."""

from django.db.models import Q
from django.http import HttpResponse
from django.utils.translation import gettext as _

from accounts.choices import Capability
from accounts.models import AuditEvent
from console import charts, tables
from console.downloads import csv_download
from console.pages import ConsoleRequest, console_page, show

EXPORT_ROWS = 50_000


@console_page(Capability.VIEW_AUDIT)
def audit_list(request: ConsoleRequest) -> HttpResponse:
    query = request.GET.get("q", "").strip()
    rows = AuditEvent.objects.filter(organization=request.organization)
    if query:
        rows = rows.filter(
            Q(action__icontains=query)
            | Q(actor_name__icontains=query)
            | Q(object_name__icontains=query)
        )
    if request.GET.get("format") == "csv":
        text = charts.as_csv(
            ["sequence", "at", "actor", "action", "object", "object_id", "address", "hash"],
            (
                (
                    event.sequence,
                    event.at.isoformat(),
                    event.actor_name,
                    event.action,
                    event.object_name,
                    event.object_id,
                    event.address,
                    event.hash,
                )
                for event in rows[:EXPORT_ROWS]
            ),
        )
        return csv_download(text, "audit.csv")
    table = tables.make_table(
        request,
        label=_("Audit events"),
        columns=[
            tables.Column(_("When")),
            tables.Column(_("Who")),
            tables.Column(_("What")),
            tables.Column(_("Object")),
            tables.Column(_("Address"), minor=True),
        ],
        rows=rows,
        row_template="console/audit/_row.html",
        filtered=bool(query),
        page_size=50,
    )
    return show(
        request,
        "console/audit/list.html",
        {
            "title": _("Audit"),
            "lede": _("Every change, chained by hash, so that none can be altered unseen."),
            "actions": "console/audit/_actions.html",
            "table": table,
            "query": query,
        },
    )
