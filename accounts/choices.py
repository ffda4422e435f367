"""Words that accounts' rows are written in."""

from django.db import models
from django.utils.translation import gettext_lazy as _


class Role(models.TextChoices):
    OWNER = "owner", _("Owner")
    ADMIN = "admin", _("Admin")
    DEVELOPER = "developer", _("Developer")
    VIEWER = "viewer", _("Viewer")


class Capability(models.TextChoices):
    """What a member or a key may do; `permissions.py` says who has which."""

    VIEW = "view", _("see models, datasets, runs, deployments")
    DEVELOP = "develop", _("create and change models, datasets, runs, deployments")
    INFER = "infer", _("call deployed models")
    FINE_TUNE = "fine_tune", _("upload files and fine-tune models at /v1/")
    VIEW_USAGE = "view_usage", _("see usage and statements")
    MANAGE_KEYS = "manage_keys", _("create and revoke API keys")
    MANAGE_MEMBERS = "manage_members", _("invite and remove members")
    MANAGE_OWNERS = "manage_owners", _("make and remove owners")
    VIEW_AUDIT = "view_audit", _("read the audit log")
    OPERATE = "operate", _("operate nodes, pools and prices")


class Scope(models.TextChoices):
    """What an API key was made for."""

    INFERENCE = "inference", _("Inference: call models at /v1/")
    FINE_TUNING = "fine_tuning", _("Fine-tuning: files and fine-tuning jobs at /v1/")
    READ = "read", _("Read: see everything of the organization at /api/v1/")
    WRITE = "write", _("Write: change everything of the organization at /api/v1/")
    OPERATE = "operate", _("Operate: nodes, pools and prices (platform staff only)")


class LimitKind(models.TextChoices):
    """What is limited, and over which time."""

    REQUESTS_PER_MINUTE = "requests_per_minute", _("Requests a minute")
    TOKENS_PER_MINUTE = "tokens_per_minute", _("Tokens a minute")
    CONCURRENT_REQUESTS = "concurrent_requests", _("Requests at once")
    REQUESTS_PER_DAY = "requests_per_day", _("Requests a day")
    REQUESTS_PER_MONTH = "requests_per_month", _("Requests a month")
    TOKENS_PER_DAY = "tokens_per_day", _("Tokens a day")
    TOKENS_PER_MONTH = "tokens_per_month", _("Tokens a month")
    MONEY_PER_DAY = "money_per_day", _("Money a day")
    MONEY_PER_MONTH = "money_per_month", _("Money a month")

    @property
    def measure(self) -> str:
        """requests, tokens, money or concurrency."""
        return "concurrency" if self is self.CONCURRENT_REQUESTS else self.value.split("_")[0]

    @property
    def period(self) -> str:
        """minute, day, month, or nothing for what is open at once."""
        return "" if self is self.CONCURRENT_REQUESTS else self.value.rsplit("_", 1)[1]
