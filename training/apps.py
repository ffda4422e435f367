from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class TrainingConfig(AppConfig):
    name = "training"
    verbose_name = _("Training")

    def ready(self) -> None:
        from models_registry import gates  # both need the models, which are there only now
        from training.services.gates import complete_rule

        gates.say_how(complete_rule)
