"""Settings that every way of running shares. Only this package reads the environment."""

import os
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from django.utils.translation import gettext_lazy as _

from factory import embedded

BASE_DIR = Path(__file__).resolve().parent.parent.parent


def database_settings(url: str) -> dict[str, Any]:
    """Django's DATABASES entry for a `postgresql://user:password@host:port/name?option=x` URL."""
    parts = urlsplit(url)
    if parts.scheme not in {"postgres", "postgresql"}:
        raise ValueError(f"DATABASE_URL must start with postgresql://, not {parts.scheme}://")
    options = {key: values[-1] for key, values in parse_qs(parts.query).items()}
    host = options.pop("host", "") or parts.hostname or ""
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": unquote(parts.path.lstrip("/")),
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": host,
        "PORT": str(parts.port or ""),
        "OPTIONS": options,
        "CONN_MAX_AGE": 60,
        "CONN_HEALTH_CHECKS": True,
    }


def broker_url(redis_url: str) -> str:
    """The same Redis in Celery's spelling: it says redis+socket:// for a Unix socket."""
    if not redis_url.startswith("unix://"):
        return redis_url
    parts = urlsplit(redis_url)
    number = parse_qs(parts.query).get("db", ["0"])[-1]
    return f"redis+socket://{parts.path}?virtual_host={number}"


FACTORY_DATA = Path(os.environ.get("FACTORY_DATA") or BASE_DIR / ".factory" / "data").resolve()
FACTORY_STORAGE = os.environ.get("FACTORY_STORAGE") or str(FACTORY_DATA / "storage")
FACTORY_BASE_URL = os.environ.get("FACTORY_BASE_URL", "http://127.0.0.1:8000").rstrip("/")
FACTORY_IMPORT_FOLDERS = [
    str(BASE_DIR / "demo" / "tiny_qwen3" / "model"),
    *filter(None, os.environ.get("FACTORY_IMPORT_FOLDERS", "").split(":")),
]
# Where a node has engines that need an environment of their own, as name=folder:name=folder; the
# others are looked for in FACTORY_DATA/engines/NAME.
FACTORY_ENGINES = {
    name: Path(folder).resolve()
    for name, _, folder in (
        each.partition("=") for each in os.environ.get("FACTORY_ENGINES", "").split(":") if each
    )
}
HUGGING_FACE_ENDPOINT = os.environ.get("HF_ENDPOINT") or None  # None: the client's own default
HUGGING_FACE_TOKEN = os.environ.get("HF_TOKEN", "")
MODELSCOPE_ENDPOINT = os.environ.get("MODELSCOPE_ENDPOINT") or None
MODELSCOPE_TOKEN = os.environ.get("MODELSCOPE_API_TOKEN", "")
# Where the platform's own processes reach the gateway, if not by the address that clients use.
FACTORY_GATEWAY_URL = os.environ.get("FACTORY_GATEWAY_URL", FACTORY_BASE_URL).rstrip("/")
DATABASE_URL = os.environ.get("DATABASE_URL") or embedded.database_url(FACTORY_DATA)
REDIS_URL = os.environ.get("REDIS_URL") or embedded.redis_url(FACTORY_DATA)
FACTORY_EMBEDDED_POSTGRES = not os.environ.get("DATABASE_URL")
FACTORY_EMBEDDED_REDIS = not os.environ.get("REDIS_URL")

SECRET_KEY = os.environ.get("FACTORY_SECRET_KEY", "")
DEBUG = False
ALLOWED_HOSTS = [urlsplit(FACTORY_BASE_URL).hostname or "127.0.0.1", "127.0.0.1", "localhost"]
CSRF_TRUSTED_ORIGINS = [FACTORY_BASE_URL]

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django.contrib.postgres",
    "django.contrib.humanize",
    "allauth",
    "allauth.account",
    "csp",
    "django_htmx",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "common",
    "accounts",
    "chips",
    "models_registry",
    "deployments",
    "training",
    "usage",
    "console",
    "gateway",
    "openai_api",
    "agent",
    "factory",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "common.middleware.RequestIdMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "csp.middleware.CSPMiddleware",
    "allauth.account.middleware.AccountMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
]

ROOT_URLCONF = "factory.urls"
ASGI_APPLICATION = "factory.asgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

DATABASES = {"default": database_settings(DATABASE_URL)}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
CACHES = {
    "default": {
        "BACKEND": "django.core.cache.backends.redis.RedisCache",
        "LOCATION": REDIS_URL,
        "KEY_PREFIX": "cache",
    }
}

AUTH_USER_MODEL = "accounts.User"
AUTHENTICATION_BACKENDS = [
    "django.contrib.auth.backends.ModelBackend",
    "allauth.account.auth_backends.AuthenticationBackend",
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator"},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
LOGIN_URL = "account_login"
LOGIN_REDIRECT_URL = "/"
ACCOUNT_ADAPTER = "accounts.adapter.AccountAdapter"
ACCOUNT_EMAIL_VERIFICATION = "none"
ACCOUNT_LOGIN_METHODS = {"username", "email"}
ACCOUNT_LOGOUT_REDIRECT_URL = "account_login"

# Mail (for forgotten passwords) goes out where a host is named, else into the web process's log.
EMAIL_HOST = os.environ.get("FACTORY_EMAIL_HOST", "")
EMAIL_BACKEND = f"django.core.mail.backends.{'smtp' if EMAIL_HOST else 'console'}.EmailBackend"
DEFAULT_FROM_EMAIL = os.environ.get("FACTORY_EMAIL_FROM", "ai-factory@localhost")

LANGUAGE_CODE = "en"
LANGUAGES = [("en", _("English")), ("zh-hans", _("Simplified Chinese"))]
LOCALE_PATHS = [BASE_DIR / "locale"]
TIME_ZONE = "UTC"
USE_TZ = True

STATIC_URL = "/static/"
STATIC_ROOT = BASE_DIR / ".factory" / "static"
WHITENOISE_USE_FINDERS = True
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
}

SELF = ["'self'"]
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": SELF,
        "script-src": SELF,
        "style-src": SELF,
        "img-src": ["'self'", "data:"],
        "connect-src": SELF,
        "form-action": SELF,
        "frame-ancestors": ["'none'"],
        "base-uri": SELF,
        "object-src": ["'none'"],
    }
}
X_FRAME_OPTIONS = "DENY"
SECURE_REFERRER_POLICY = "same-origin"
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"

DATA_UPLOAD_MAX_MEMORY_SIZE = 10 * 2**20
FILE_UPLOAD_MAX_MEMORY_SIZE = 4 * 2**20
FACTORY_MAX_UPLOAD_BYTES = 2 * 2**30

# A trainer that says nothing for so long, and for much longer than its own pace explains, is killed
# and started again from its last checkpoint.
FACTORY_TRAINER_SILENCE_SECONDS = float(os.environ.get("FACTORY_TRAINER_SILENCE_SECONDS", "60"))

# A folder of folders, each a benchmark task (a YAML and its documents) that every organization may
# take; and how long one model may be asked one task.
FACTORY_BENCHMARKS = os.environ.get("FACTORY_BENCHMARKS", "")
FACTORY_BENCHMARK_SECONDS = float(os.environ.get("FACTORY_BENCHMARK_SECONDS", "14400"))

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "accounts.api.authentication.ApiKeyAuthentication",
        "accounts.api.authentication.ConsoleSessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["accounts.api.permissions.HasCapability"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": [
        "rest_framework.parsers.JSONParser",
        "rest_framework.parsers.MultiPartParser",
    ],
    "DEFAULT_PAGINATION_CLASS": "common.api.Pagination",
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "common.api.exception_handler",
    "UNAUTHENTICATED_USER": None,
}
SPECTACULAR_SETTINGS = {
    "TITLE": "AI Factory",
    "DESCRIPTION": "Provisioning: models, datasets, training runs, deployments, chips and usage.",
    "VERSION": "1",
    "OAS_VERSION": "3.1.0",
    "SERVE_INCLUDE_SCHEMA": False,
    "SERVE_PERMISSIONS": ["rest_framework.permissions.AllowAny"],
    "SERVE_AUTHENTICATION": [],
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "REDOC_DIST": "SIDECAR",
    "COMPONENT_SPLIT_REQUEST": True,
    "POSTPROCESSING_HOOKS": [
        "drf_spectacular.hooks.postprocess_schema_enums",
        "accounts.api.schema.add_refusals",
    ],
    "SCHEMA_PATH_PREFIX": r"/api/v1",
    "ENUM_NAME_OVERRIDES": {
        "AcceleratorStatusEnum": "chips.choices.AcceleratorStatus",
        "DeploymentStatusEnum": "deployments.choices.DeploymentStatus",
        "DatasetKindEnum": "training.choices.DatasetKind",
        "DatasetVersionStatusEnum": "training.choices.VersionStatus",
        "EvaluationStatusEnum": "training.choices.EvaluationStatus",
        "ImportStatusEnum": "models_registry.choices.ImportStatus",
        "LimitKindEnum": "accounts.choices.LimitKind",
        "MergeStatusEnum": "models_registry.choices.MergeStatus",
        "NodeStatusEnum": "chips.choices.NodeStatus",
        "PriceItemEnum": "chips.choices.PriceItem",
        "ReplicaStatusEnum": "deployments.choices.ReplicaStatus",
        "RevisionKindEnum": "models_registry.choices.RevisionKind",
        "RunStatusEnum": "training.choices.RunStatus",
        "SourceKindEnum": "models_registry.choices.SourceKind",
        "UsageItemEnum": "usage.choices.Item",
    },
}

# Of one API key and of one organization, in each web process: a guard, not a budget.
GATEWAY_REQUESTS_PER_MINUTE = int(os.environ.get("GATEWAY_REQUESTS_PER_MINUTE", "60000"))
GATEWAY_CONCURRENCY = int(os.environ.get("GATEWAY_CONCURRENCY", "2000"))
# Whether requests are let in that no limit can be checked for, because Redis is away; what the two
# settings above say holds even then.
GATEWAY_LIMITS_FAIL_OPEN = os.environ.get("GATEWAY_LIMITS_FAIL", "open") != "closed"
# Where one line of JSON for each request to /v1/ goes: stdout, off, or a file's path.
GATEWAY_REQUEST_LINES = os.environ.get("GATEWAY_REQUEST_LINES", "stdout")
# What Prometheus sends as its bearer token to /metrics; empty: nobody reads them.
METRICS_TOKEN = os.environ.get("METRICS_TOKEN", "")
# How long a request waits for a deployment that scales by itself, and for one that is being started
# again; and how many may, for each deployment in each web process.
GATEWAY_HOLD_SECONDS = float(os.environ.get("GATEWAY_HOLD_SECONDS", "120"))
GATEWAY_RESTART_HOLD_SECONDS = float(os.environ.get("GATEWAY_RESTART_HOLD_SECONDS", "10"))
GATEWAY_MOST_HELD = int(os.environ.get("GATEWAY_MOST_HELD", "256"))
# Hosts of external providers that routes may lead to: names, *.names, networks, or * for all that
# are public. Nothing is sent to any other, and to private addresses only where they are named.
PROVIDER_HOSTS = os.environ.get("PROVIDER_HOSTS", "")
# Of one key to files and fine-tuning jobs, in all web processes together.
OPENAI_API_REQUESTS_PER_MINUTE = int(os.environ.get("OPENAI_API_REQUESTS_PER_MINUTE", "1000"))

CELERY_BROKER_URL = broker_url(REDIS_URL)
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_TRANSPORT_OPTIONS = {"visibility_timeout": 600, "global_keyprefix": "celery:"}
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_ACKS_LATE = True
CELERY_TASK_REJECT_ON_WORKER_LOST = True
CELERY_TASK_DEFAULT_QUEUE = "control"
CELERY_TASK_TIME_LIMIT = 600
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_WORKER_SEND_TASK_EVENTS = False
CELERY_TIMEZONE = "UTC"

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "line": {"format": "%(asctime)s %(levelname)s %(name)s %(message)s"},
    },
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["stderr"], "level": "INFO"},
    "loggers": {
        "httpx": {"level": "WARNING"},
        "httpx2": {"level": "WARNING"},
        "openai": {"level": "WARNING"},
        "uvicorn.access": {"level": "WARNING"},
        "celery.worker.strategy": {"level": "WARNING"},  # two lines for every task, every second
        "celery.app.trace": {"level": "WARNING"},
    },
}
