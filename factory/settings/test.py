"""Tests: the same code path on a data folder of their own."""

import os

from factory.settings import base

os.environ.setdefault("FACTORY_DATA", str(base.BASE_DIR / ".factory" / "test"))

import importlib

importlib.reload(base)
from factory.settings.base import *  # noqa: E402, F403

SECRET_KEY = "only-for-tests-" + "x" * 40
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
FACTORY_TESTING = True
