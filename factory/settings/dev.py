"""One machine: embedded services unless their URLs are given, and a key kept under FACTORY_DATA."""

import os
import secrets
from pathlib import Path

from factory.settings.base import *  # noqa: F403
from factory.settings.base import FACTORY_DATA, SECRET_KEY


def kept_secret(path: Path) -> str:
    """The key in `path`, made on first use, readable by its owner alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path.read_text().strip()
    with os.fdopen(handle, "w") as file:
        file.write(key := secrets.token_urlsafe(48))
    return key


SECRET_KEY = SECRET_KEY or kept_secret(FACTORY_DATA / "secret_key")
