from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _own_storage(settings, tmp_path: Path) -> None:
    settings.FACTORY_STORAGE = str(tmp_path / "storage")
