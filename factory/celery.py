"""Celery: queue `control` for the platform, one queue a node for its agent, and the beat."""

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "factory.settings.dev")

app = Celery("factory")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()

# Sweeps visit every unsettled row: they make things right, messages only make them quick.
app.conf.beat_schedule = {
    "place-training-runs": {"task": "training.sweep", "schedule": 2.0, "options": {"expires": 4}},
    "reconcile-deployments": {
        "task": "deployments.sweep",
        "schedule": 2.0,
        "options": {"expires": 4},
    },
    "autoscale-deployments": {
        "task": "deployments.autoscale",
        "schedule": 3.0,
        "options": {"expires": 6},
    },
    "step-fine-tuning-jobs": {
        "task": "openai_api.sweep",
        "schedule": 2.0,
        "options": {"expires": 4},
    },
    "run-imports": {"task": "models_registry.sweep", "schedule": 5.0, "options": {"expires": 10}},
    "take-shadow-answers": {
        "task": "deployments.take_shadow_answers",
        "schedule": 5.0,
        "options": {"expires": 10},
    },
    "forget-shadow-answers": {
        "task": "deployments.forget_shadow_answers",
        "schedule": 3600.0,
        "options": {"expires": 3600},
    },
    "watch-nodes": {"task": "chips.watch_nodes", "schedule": 5.0, "options": {"expires": 10}},
    "ingest-usage": {"task": "usage.ingest", "schedule": 2.0, "options": {"expires": 4}},
    "roll-up-usage": {"task": "usage.roll_up", "schedule": 60.0, "options": {"expires": 120}},
}
