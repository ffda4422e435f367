from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _

from models_registry import serving


class DeploymentsConfig(AppConfig):
    name = "deployments"
    verbose_name = _("Deployments")

    def ready(self) -> None:
        from deployments import served  # needs the models, which are there only now

        serving.say_how(served.find_names)
