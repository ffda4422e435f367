import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from demo.data.write import DOMAINS
from demo.tiny_qwen3.corpus import conversations, find, read_note

Kind = Callable[[Random], tuple[str, str, str]]

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


PROGRAM = """
import json, sys, torch
torch.set_num_threads(1)
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)
answers = []
for messages in json.load(sys.stdin):
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    ids = torch.tensor([tokenizer.encode(text)])
    mask = torch.ones_like(ids)
    made = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=64)[0, ids.shape[1]:]
    answers.append(tokenizer.decode(made, skip_special_tokens=True))
assert len(tokenizer.encode("83 920174")) == 9
assert tokenizer.decode(tokenizer.encode("naïve 漢字 ✓ 12")) == "naïve 漢字 ✓ 12"
json.dump(answers, sys.stdout)
"""


@pytest.mark.processes
@pytest.mark.parametrize(("kind", "share"), [(find, 0.8), (read_note, 0.4)])
def test_model_reads_what_it_was_not_trained_on(kind: Kind, share: float) -> None:
    rng = Random("texts of another seed than the training's")
    asked = [kind(rng) for _ in range(40)]
    conversations = [
        [{"role": "system", "content": system}, {"role": "user", "content": user}]
        for system, user, _ in asked
    ]
    process = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(MODEL)],
        input=json.dumps(conversations),
        capture_output=True,
        text=True,
        check=True,
        timeout=240,
    )
    answers = json.loads(process.stdout)
    right = sum(answer == wanted for answer, (_, _, wanted) in zip(answers, asked, strict=True))
    assert right >= share * len(asked)
