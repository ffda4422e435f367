"""The app's part of /api/v1/."""

from django.urls import URLPattern, URLResolver, path

from usage.api import views

urlpatterns: list[URLPattern | URLResolver] = [
    path("usage/", views.UsageView.as_view(), name="usage"),
    path("statement/", views.StatementView.as_view(), name="statement"),
    path("statement.csv", views.StatementCsv.as_view(), name="statement_csv"),
]
