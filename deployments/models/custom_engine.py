from django.core.exceptions import ValidationError
from django.db import models
from django.utils.translation import gettext_lazy as _

from common.models import Identified
from deployments.models.deployment import Deployment
from deployments.models.variant import Variant
from engines.host import SpecError
from engines.launchers import LAUNCHERS, EngineTemplate


class CustomEngine(Identified):
    """An engine that an operator described: a command line with places to fill in.

    Only operators write these, for what they say is run on nodes. One that a deployment has used
    is changed no more: what a replica runs must not change behind its variant.
    """

    name = models.CharField(
        max_length=40, unique=True, help_text=_("As deployments name it: a-z, 0-9 and -.")
    )
    command = models.JSONField(
        help_text=_(
            "A list of words, the program first; no shell reads them. {port} and {model_path} must"
            " be among the places filled in: see docs/engines.md for all of them."
        )
    )
    environment = models.JSONField(
        default=dict, blank=True, help_text=_("Variables by name; {token} is filled in here only.")
    )
    health_path = models.CharField(max_length=200, default="/health")
    open_gauges = models.JSONField(
        default=list,
        blank=True,
        help_text=_(
            "Gauges at /metrics whose sum is how many requests are open; the engine is asked to"
            " end when it is 0. Empty if it finishes open requests by itself."
        ),
    )
    start_seconds = models.FloatField(
        default=600, help_text=_("What it needs at most to start, loading the weights apart.")
    )
    torch_devices = models.JSONField(
        default=list, blank=True, help_text=_("Such as cuda, npu or cpu; empty: any accelerator.")
    )
    note = models.TextField(blank=True, default="")
    created_at = models.DateTimeField()

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name

    @property
    def template(self) -> EngineTemplate:
        """Raises SpecError for values that could not be started."""
        return EngineTemplate(
            name=self.name,
            command=self.command,
            environment=self.environment,
            health_path=self.health_path,
            open_gauges=self.open_gauges,
            start_seconds=self.start_seconds,
        )

    @property
    def is_used(self) -> bool:
        """Whether a deployment was ever made of it."""
        if self._state.adding:
            return False
        used = Deployment.objects.filter(engine=self.name).exists()
        return used or Variant.objects.filter(engine=self.name).exists()

    def clean(self) -> None:
        if self.name in LAUNCHERS:
            raise ValidationError({"name": _("The platform has an engine of this name.")})
        if self.is_used:
            raise ValidationError(_("Deployments use it: describe the change under a new name."))
        if not isinstance(self.torch_devices, list) or not all(
            isinstance(each, str) and each.isalpha() for each in self.torch_devices
        ):
            raise ValidationError({"torch_devices": _("Give a list of names such as cuda.")})
        for field, kind in (("command", list), ("environment", dict), ("open_gauges", list)):
            if not isinstance(getattr(self, field), kind):
                raise ValidationError({field: _("This has another form: see the text below.")})
        try:
            _unused = self.template
        except SpecError as error:
            message = f"{error.problem}; {error.remedy}."
            raise ValidationError({error.field: message}) from error
