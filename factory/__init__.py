"""Assembles everything. Celery's app is made here so that every process sends to our broker."""

from factory.celery import app as celery_app

__all__ = ["celery_app"]
