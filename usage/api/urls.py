"""The app's part of /api/v1/."""

from django.urls import URLPattern, URLResolver, path

from usage.api import cost_centres, exports, views

urlpatterns: list[URLPattern | URLResolver] = [
    path("usage/", views.UsageView.as_view(), name="usage"),
    path("statement/", views.StatementView.as_view(), name="statement"),
    path("statement.pdf", exports.StatementPdf.as_view(), name="statement_pdf"),
    path("issued-statements/", exports.IssuedStatementList.as_view()),
    path("cost-centres/", cost_centres.CostCentreList.as_view()),
    path("usage-events/", exports.UsageEventList.as_view()),
    path("statement.csv", views.StatementCsv.as_view(), name="statement_csv"),
]
