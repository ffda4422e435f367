"""Every root of the platform; of `/v1/` what the gateway leaves to Django (see asgi.py)."""

from allauth.account.decorators import secure_admin_login
from django.contrib import admin
from django.urls import URLPattern, URLResolver, include, path
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerSplitView

from factory import health

# The back office is entered by the same door as the console: one sign-in, one limit on guessing.
admin.site.login = secure_admin_login(admin.site.login)  # type: ignore[method-assign]

api: list[URLPattern | URLResolver] = [
    path("schema/", SpectacularAPIView.as_view(), name="schema"),
    # "split": its script comes from a URL, for our pages allow no script in themselves
    path("docs/", SpectacularSwaggerSplitView.as_view(url_name="api:schema"), name="docs"),
    path("", include("accounts.api.urls")),
    path("", include("chips.api.urls")),
    path("", include("models_registry.api.urls")),
    path("", include("training.api.urls")),
    path("", include("deployments.api.urls")),
    path("", include("usage.api.urls")),
]

urlpatterns: list[URLPattern | URLResolver] = [
    path("healthz", health.live),
    path("readyz", health.ready),
    path("admin/", admin.site.urls),
    path("accounts/", include("allauth.urls")),
    path("api/v1/", include((api, "api"))),
    path("v1/", include("openai_api.api.urls")),
    path("", include("console.urls")),
]

handler403 = "console.views.errors.not_allowed"
handler404 = "console.views.errors.not_found"
handler500 = "console.views.errors.server_error"
