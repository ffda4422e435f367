from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class OpenAiApiConfig(AppConfig):
    name = "openai_api"
    verbose_name = _("OpenAI's files and fine-tuning")

    def ready(self) -> None:
        from openai_api import holdings as files
        from usage import holdings

        holdings.register(files.list_files)
