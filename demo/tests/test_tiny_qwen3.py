import itertools
import json
from pathlib import Path

from demo.data.write import DOMAINS
from demo.tiny_qwen3.corpus import conversations

MODEL = Path(__file__).parents[1] / "tiny_qwen3" / "model"


def test_pretraining_conversations_repeat_for_a_seed() -> None:
    first = list(itertools.islice(conversations(3), 50))
    assert first == list(itertools.islice(conversations(3), 50))
    assert first != list(itertools.islice(conversations(4), 50))


def test_pretraining_holds_nothing_of_the_support_desks() -> None:
    desks = DOMAINS.values()
    labels = {f'"{intent}"' for desk in desks for intent in desk.known.requests}
    fields = ('"intent":', '"urgency":', '"order_number":')
    instructions = [desk.instruction for desk in desks]
    for messages in itertools.islice(conversations(0), 5000):
        answer = messages[-1]["content"]
        if answer.startswith("{"):
            assert not any(f":{label}" in answer for label in labels)
            assert not any(field in answer for field in fields)
        for message in messages[:-1]:
            assert not any(instruction in message["content"] for instruction in instructions)


def test_copied_answers_stand_in_the_conversation() -> None:
    seen = 0
    for system, user, assistant in itertools.islice(
        (messages for messages in conversations(1) if len(messages) == 3), 300
    ):
        if system["content"].startswith(("Find the", "Which ", "Repeat", "Copy")):
            seen += 1
            assert assistant["content"].casefold() in user["content"].casefold()
    assert seen > 20


def test_model_folder_is_complete_and_small() -> None:
    for name in ("config", "generation_config", "tokenizer", "tokenizer_config"):
        json.loads((MODEL / f"{name}.json").read_text(encoding="utf-8"))
    assert (MODEL / "README.md").is_file()
    assert (MODEL / "model.safetensors").stat().st_size <= 10_000_000
    config = json.loads((MODEL / "config.json").read_text(encoding="utf-8"))
    assert config["architectures"] == ["Qwen3ForCausalLM"]
    assert config["head_dim"] == 64
    assert config["tie_word_embeddings"] is True
