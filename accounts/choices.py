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
