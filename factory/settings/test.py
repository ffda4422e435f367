"""Tests: the same code path on a data folder of their own, one for each of pytest's workers."""

import importlib
import os
from pathlib import Path
from urllib.parse import urlsplit

from factory.settings import base

data = Path(os.environ.get("FACTORY_DATA") or base.BASE_DIR / ".factory" / "test")
if worker := os.environ.get("PYTEST_XDIST_WORKER"):
    if data.name != worker:  # a child of a worker has it already
        data /= worker
    if url := os.environ.get("REDIS_URL"):  # one server, emptied by each test: a database each
        number = int(worker.removeprefix("gw")) + 1
        os.environ["REDIS_URL"] = urlsplit(url)._replace(path=f"/{number}").geturl()
os.environ["FACTORY_DATA"] = str(data)

importlib.reload(base)
from factory.settings.base import *  # noqa: E402, F403

SECRET_KEY = "only-for-tests-" + "x" * 40
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
FACTORY_TESTING = True
