"""REST over the ledger."""

import csv
from typing import ClassVar

from django.http import HttpResponse
from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.api.views import OrganizationView
from accounts.choices import Capability
from common.api import ErrorBody
from common.errors import InvalidInput
from usage import cells, issuing, periods, selectors, statements
from usage.api import serializers

SPAN = [
    OpenApiParameter("from", str, description="ISO date or time."),
    OpenApiParameter("to", str, description="ISO date (included) or time; now if left out."),
]
MONTH = OpenApiParameter("month", str, description="YYYY-MM, in the organization's time zone.")


class UsageView(OrganizationView):
    capabilities: ClassVar[dict[str, str]] = {"*": Capability.VIEW_USAGE}

    @extend_schema(
        operation_id="usage",
        parameters=[*SPAN, OpenApiParameter("group_by", str, enum=list(selectors.GROUPS))],
        responses={200: serializers.UsageBody, 400: ErrorBody},
    )
    def get(self, request: Request) -> Response:
        """What was used within full hours, added up; the last seven days if nothing is said."""
        now = timezone.now()
        group_by = request.query_params.get("group_by", "model")
        if group_by not in selectors.GROUPS:
            raise InvalidInput(
                f"Cannot group by {group_by!r}.",
                field="group_by",
                remedy=f"Choose from {', '.join(selectors.GROUPS)}.",
            )
        start, end = periods.span(
            self.organization,
            start=request.query_params.get("from", ""),
            end=request.query_params.get("to", ""),
            now=now,
            days=7,
        )
        statements.refresh(organization=self.organization, now=now)
        rows = selectors.list_usage(
            organization=self.organization, start=start, end=end, group_by=group_by
        )
        body = {"start": start, "end": end, "group_by": group_by, "results": rows}
        return Response(serializers.UsageBody(body).data)


class StatementView(OrganizationView):
    capabilities: ClassVar[dict[str, str]] = {"*": Capability.VIEW_USAGE}

    @extend_schema(
        operation_id="statement",
        parameters=[MONTH, *SPAN, OpenApiParameter("by", str, enum=list(cells.GROUPS))],
        responses={200: serializers.StatementBody, 400: ErrorBody},
    )
    def get(self, request: Request) -> Response:
        """What the organization owes for a month, this one if nothing is said, or another span. A
        month that was issued is told as it was. `by` shares it among keys, models, cost centres or
        days: the shares add up to the totals."""
        statement = self.statement(request)
        by = request.query_params.get("by", "")
        if by and by not in statement.parts:
            raise InvalidInput(
                f"Cannot share by {by!r}.",
                field="by",
                remedy=f"Choose from {', '.join(statement.parts)}.",
            )
        context = {"shares": statement.shares(by) if by else []}
        return Response(serializers.StatementBody(statement, context=context).data)

    def statement(self, request: Request) -> statements.Statement:
        now, asked = timezone.now(), request.query_params
        if "from" not in asked and "to" not in asked:
            month = asked.get("month") or periods.month_of(self.organization, now)
            return issuing.of_month(organization=self.organization, month=month, now=now)
        start, end = periods.span(
            self.organization,
            start=asked.get("from", ""),
            end=asked.get("to", ""),
            now=now,
            days=31,
        )
        return statements.statement(organization=self.organization, start=start, end=end, now=now)


class StatementCsv(StatementView):
    @extend_schema(
        operation_id="statement_csv",
        parameters=[MONTH, *SPAN],
        responses={(200, "text/csv"): OpenApiTypes.STR, 400: ErrorBody},
    )
    def get(self, request: Request) -> HttpResponse:  # type: ignore[override]
        """The statement's lines as CSV, with the total in its last."""
        statement = self.statement(request)
        answer = HttpResponse(content_type="text/csv; charset=utf-8")
        answer["Content-Disposition"] = (
            f'attachment; filename="statement-{self.organization.slug}-{statement.start:%Y-%m-%d}.csv"'
        )
        names = list(serializers.StatementLineBody().fields)
        table = csv.DictWriter(answer, names)
        table.writeheader()
        for line in serializers.StatementLineBody(statement.lines, many=True).data:
            table.writerow(line)
        for currency, total in statement.totals.items():
            table.writerow({"item": "total", "currency": currency, "amount": total})
        return answer
