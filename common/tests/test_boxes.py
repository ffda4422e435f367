import pytest

from common import boxes


def test_what_is_sealed_is_opened_again_and_does_not_show(settings) -> None:
    sealed = boxes.seal("sk-secret")
    assert b"secret" not in sealed
    assert boxes.open_sealed(sealed) == "sk-secret"
    assert boxes.open_sealed(memoryview(sealed)) == "sk-secret"
    old = settings.SECRET_KEY
    settings.SECRET_KEY = "another"
    with pytest.raises(boxes.CannotOpen):
        boxes.open_sealed(sealed)
    settings.SECRET_KEY_FALLBACKS = [old]
    assert boxes.open_sealed(sealed) == "sk-secret"
