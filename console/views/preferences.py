"""Theme and language: kept in cookies, so that they hold before sign-in too."""

from django.conf import settings
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.http import require_POST

from console.templatetags.console import THEMES

YEAR_SECONDS = 365 * 24 * 3600


@require_POST
def set_theme(request: HttpRequest) -> HttpResponse:
    """Remember light, dark or as the system, and go back to where the person was."""
    response = HttpResponseRedirect(next_url(request))
    theme = request.POST.get("theme", "")
    if theme in THEMES:
        _remember(request, response, "theme", theme)
    return response


@require_POST
def set_language(request: HttpRequest) -> HttpResponse:
    """Remember one of the languages we speak."""
    response = HttpResponseRedirect(next_url(request))
    language = request.POST.get("language", "")
    if language in dict(settings.LANGUAGES):
        _remember(request, response, settings.LANGUAGE_COOKIE_NAME, language)
    return response


def next_url(request: HttpRequest) -> str:
    """Where the form came from, if that is here; else the first page."""
    url = request.POST.get("next", "")
    here = url_has_allowed_host_and_scheme(
        url, allowed_hosts={request.get_host()}, require_https=request.is_secure()
    )
    return url if here else "/"


def _remember(request: HttpRequest, response: HttpResponse, name: str, value: str) -> None:
    response.set_cookie(
        name,
        value,
        max_age=YEAR_SECONDS,
        secure=request.is_secure(),
        httponly=True,
        samesite="Lax",
    )
