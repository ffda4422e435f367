"""REST: events for other books, statements as PDF, and those that are issued."""

import csv
from typing import ClassVar

from django.http import HttpResponse
from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.api.resources import reading
from accounts.api.views import OrganizationView
from accounts.choices import Capability
from common.api import PAGING, ErrorBody, Pagination, paginated
from common.errors import InvalidInput
from usage import exporting, issuing, paper, periods
from usage.api.views import MONTH, SPAN, StatementView
from usage.models import IssuedStatement, UsageEvent


class UsageEventBody(serializers.ModelSerializer):
    class Meta:
        model = UsageEvent
        fields = [
            "request_id",
            "at",
            "key_id",
            "key_name",
            "model_name",
            "deployment_id",
            "deployment_name",
            "replica_id",
            "revision_id",
            "endpoint",
            "input_tokens",
            "cached_input_tokens",
            "output_tokens",
            "status_code",
            "is_interrupted",
            "is_streamed",
            "is_batch",
            "first_token_milliseconds",
            "duration_milliseconds",
        ]


class UsageEventsBody(serializers.Serializer):
    results = UsageEventBody(many=True)
    cursor = serializers.CharField(help_text="Send it as `after` for what comes next.")
    is_last = serializers.BooleanField(help_text="There is no more at the moment.")


class IssuedStatementBody(serializers.ModelSerializer):
    number = serializers.CharField(source="name")

    class Meta:
        model = IssuedStatement
        fields = ["id", "number", "month", "issued_at", "currency", "total", "digest"]


class IssueRequest(serializers.Serializer):
    month = serializers.CharField(max_length=7, help_text="YYYY-MM")


class UsageEventList(OrganizationView):
    capabilities: ClassVar[dict[str, str]] = {"*": Capability.VIEW_USAGE}

    @extend_schema(
        operation_id="usage_events",
        parameters=[
            *SPAN,
            OpenApiParameter("after", str, description="The cursor of the page before."),
            OpenApiParameter("limit", int, description=f"1 to {exporting.MOST}; 1000."),
            OpenApiParameter("output", str, enum=["json", "csv"]),
        ],
        responses={200: UsageEventsBody, (200, "text/csv"): OpenApiTypes.STR, 400: ErrorBody},
    )
    def get(self, request: Request) -> Response | HttpResponse:
        """Requests as they are in the ledger, in the order in which they came there. Ask again
        after the last cursor for what came since; none is told twice or left out. As CSV the cursor
        is in the header `X-Cursor`."""
        page = self._page(request)
        body = UsageEventBody(page.events, many=True).data
        if request.query_params.get("output") == "csv":
            answer = HttpResponse(content_type="text/csv; charset=utf-8")
            answer["X-Cursor"] = page.cursor
            table = csv.DictWriter(answer, UsageEventBody.Meta.fields)
            table.writeheader()
            table.writerows(body)
            return answer
        return Response({"results": body, "cursor": page.cursor, "is_last": page.is_last})

    def _page(self, request: Request) -> exporting.Page:
        asked = request.query_params
        start = end = None
        if "from" in asked or "to" in asked:
            start, end = periods.span(
                self.organization,
                start=asked.get("from", ""),
                end=asked.get("to", ""),
                now=timezone.now(),
                days=31,
            )
        limit = asked.get("limit", "1000")
        if not (limit.isdigit() and len(limit) < 10):
            raise InvalidInput(f"{limit!r} is no number.", field="limit", remedy="Send 1000.")
        return exporting.list_events(
            self.organization,
            after=asked.get("after", ""),
            limit=int(limit),
            start=start,
            end=end,
        )


class StatementPdf(StatementView):
    @extend_schema(
        operation_id="statement_pdf",
        parameters=[MONTH, *SPAN],
        responses={(200, "application/pdf"): OpenApiTypes.BINARY, 400: ErrorBody},
    )
    def get(self, request: Request) -> HttpResponse:  # type: ignore[override]
        """The statement as PDF, in the language that the client asks for."""
        statement = self.statement(request)
        answer = HttpResponse(paper.render(statement), content_type="application/pdf")
        name = statement.number or f"{self.organization.slug}-{statement.start:%Y-%m-%d}"
        answer["Content-Disposition"] = f'attachment; filename="statement-{name}.pdf"'
        return answer


class IssuedStatementList(OrganizationView):
    capabilities: ClassVar = reading(Capability.VIEW_USAGE, changing=Capability.OPERATE)

    @extend_schema(
        operation_id="issued_statements_list",
        parameters=PAGING,
        responses={200: paginated(IssuedStatementBody)},
    )
    def get(self, request: Request) -> Response:
        """Statements that were issued, the newest month first."""
        rows = IssuedStatement.objects.of(self.organization).select_related("organization")
        return Pagination.answer(rows, IssuedStatementBody, request, self)

    @extend_schema(
        request=IssueRequest,
        responses={201: IssuedStatementBody, 400: ErrorBody, 403: ErrorBody, 409: ErrorBody},
    )
    def post(self, request: Request) -> Response:
        """Issue a month whose hours are all sealed (operators). One that was issued stays as is."""
        body = IssueRequest(data=request.data)
        body.is_valid(raise_exception=True)
        row = issuing.issue(
            organization=self.organization,
            month=body.validated_data["month"],
            actor=self.actor,
            now=timezone.now(),
        )
        return Response(IssuedStatementBody(row).data, status=201)
