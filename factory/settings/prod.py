"""Behind TLS, with PostgreSQL and Redis of its own. Refuses to start without its secrets."""

import os

from django.core.exceptions import ImproperlyConfigured

from factory.settings.base import *  # noqa: F403
from factory.settings.base import FACTORY_BASE_URL

for name in ("FACTORY_SECRET_KEY", "DATABASE_URL", "REDIS_URL", "FACTORY_BASE_URL"):
    if not os.environ.get(name):
        raise ImproperlyConfigured(f"{name} is not set: production needs it")

SESSION_COOKIE_SECURE = True
CSRF_COOKIE_SECURE = True
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
SECURE_SSL_REDIRECT = FACTORY_BASE_URL.startswith("https://")
SECURE_HSTS_SECONDS = 31_536_000
SECURE_HSTS_INCLUDE_SUBDOMAINS = True
SECURE_HSTS_PRELOAD = True
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "whitenoise.storage.CompressedManifestStaticFilesStorage"},
}
WHITENOISE_USE_FINDERS = False
