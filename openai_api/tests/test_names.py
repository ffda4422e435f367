from uuid import uuid4

from models_registry.models.registered_model import NAME
from openai_api import names


def test_an_id_leads_back_to_its_row() -> None:
    pk = uuid4()
    given = names.public_id(names.FILE, pk)
    assert given == f"file-{pk.hex}"
    assert names.read_id(names.FILE, given) == pk
    for other in (names.public_id(names.JOB, pk), f"file-{pk}", "file-", "", f"file-{pk.hex}0"):
        assert names.read_id(names.FILE, other) is None


def test_names_of_fine_tuned_models_fit_wherever_models_are_named() -> None:
    name = names.fine_tuned_name(base="Qwen3-0.6B", organization="retail", suffix="my support!")
    start, base, organization, suffix, token = name.split(":")
    assert (start, base, organization, suffix) == ("ft", "Qwen3-0.6B", "retail", "my-support")
    assert len(token) == 8

    empty = names.fine_tuned_name(base="tiny", organization="retail", suffix="")
    assert empty.startswith("ft:tiny:retail::")

    longest = names.fine_tuned_name(base="b" * 96, organization="o" * 40, suffix="s" * 64)
    assert longest.count(":") == 4
    assert len(names.checkpoint_name(longest, 999_999_999)) <= names.LONGEST
    for each in (name, empty, longest):
        NAME(names.registry_name(each))  # raises if the registry would not have it


def test_a_checkpoints_name_says_its_model_and_step() -> None:
    name = names.checkpoint_name("ft:tiny:retail:a:b", 12)
    assert name == "ft:tiny:retail:a:b:ckpt-step-12"
    assert names.read_checkpoint_name(name) == ("ft:tiny:retail:a:b", 12)
    assert names.read_checkpoint_name("ft:tiny:retail:a:b") is None
