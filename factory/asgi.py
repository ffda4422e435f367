"""The web process: the gateway answers /v1/ before Django sees it; Django answers the rest."""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "factory.settings.dev")

from django.core.asgi import get_asgi_application

application = get_asgi_application()
