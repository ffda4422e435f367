"""Pages for what went wrong. 403 and 404 look alike, so that a stranger learns nothing."""

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render


def not_found(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    return render(request, "404.html", status=404)


def not_allowed(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    return render(request, "403.html", status=403)


def server_error(request: HttpRequest) -> HttpResponse:
    """Touches no table: the database may be what broke."""
    context = {"request_id": getattr(request, "request_id", "")}
    return render(request, "500.html", context, status=500)
