import json
from pathlib import Path
from typing import Any

import pytest

from trainer.data import TokenSet, tokenize_file
from trainer.errors import FailureReason, TrainingFailure
from trainer.tests.make import REWRITING_TEMPLATE, make_rows, make_tokenizer, write_rows


def read(path: Path, rows: list[dict[str, Any]], *, limit: int = 256, **tokenizer: Any) -> TokenSet:
    return tokenize_file(
        write_rows(path / "data.jsonl", rows), make_tokenizer(**tokenizer), max_length_tokens=limit
    )


def learnt(data: TokenSet, index: int = 0) -> str:
    example = data.examples[index]
    text = make_tokenizer().decode(example.tokens[example.marks], skip_special_tokens=False)
    return str(text)


def turns(*contents: str) -> dict[str, Any]:
    roles = ("user", "assistant")
    return {
        "messages": [{"role": roles[i % 2], "content": text} for i, text in enumerate(contents)]
    }


def test_the_answer_and_its_end_are_learnt_and_nothing_else(tmp_path: Path) -> None:
    data = read(tmp_path, [turns("Wo ist München?", "In Bayern. 好")])
    assert learnt(data) == "In Bayern. 好<|im_end|>"
    whole = make_tokenizer().decode(data.examples[0].tokens, skip_special_tokens=False)
    assert whole.startswith("<|im_start|>user\nWo ist München?<|im_end|>\n<|im_start|>assistant\n")


def test_every_answer_of_a_dialogue_is_learnt_unless_its_weight_is_zero(tmp_path: Path) -> None:
    row = turns("a?", "first", "b?", "second")
    assert learnt(read(tmp_path, [row])) == "first<|im_end|>second<|im_end|>"
    row["messages"][1]["weight"] = 0
    assert learnt(read(tmp_path, [row])) == "second<|im_end|>"


def test_a_template_that_rewrites_history_gives_one_example_an_answer(tmp_path: Path) -> None:
    data = read(tmp_path, [turns("a?", "first", "b?", "second")], chat_template=REWRITING_TEMPLATE)
    thoughts = "<think>\n\n</think>\n\n"
    assert [learnt(data, i) for i in range(len(data.examples))] == [
        f"{thoughts}first<|im_end|>",
        f"{thoughts}second<|im_end|>",
    ]


def test_a_template_whose_prompt_does_not_begin_the_answer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingFailure, match="its own prompt"):
        read(
            tmp_path,
            [turns("a?", "b")],
            chat_template="{% for m in messages %}{{ m.content }}{% endfor %}"
            "{% if add_generation_prompt %}ANSWER:{% endif %}",
        )


def test_long_examples_are_cut_and_counted(tmp_path: Path) -> None:
    rows = [turns("a?", "yes"), turns("a?", "word " * 100), turns("long " * 100, "yes")]
    data = read(tmp_path, rows, limit=40)
    assert (len(data.examples), data.truncated, data.dropped) == (2, 1, 1)
    assert max(data.lengths) == 40


def test_a_file_with_nothing_to_learn_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingFailure, match="nothing to learn within 16 tokens") as refusal:
        read(tmp_path, [turns("long " * 100, "yes")], limit=16)
    assert refusal.value.reason is FailureReason.BAD_DATA
    with pytest.raises(TrainingFailure, match="nothing to learn"):
        read(tmp_path, [])


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "is not JSON"),
        ('{"prompt": "a"}', "has no messages"),
        ('{"messages": [{"role": "user", "content": "a"}]}', "has no assistant message"),
        ('{"messages": [{"role": "king", "content": "a"}]}', "has no known role"),
        ('{"messages": [{"role": "assistant", "content": 3}]}', "has no text content"),
        (
            '{"messages": [{"role": "assistant", "content": [{"type": "image_url"}]}]}',
            "holds more than text",
        ),
    ],
)
def test_a_bad_line_is_named_by_its_number(tmp_path: Path, line: str, problem: str) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps(make_rows(1)[0]) + "\n\n" + line + "\n")
    with pytest.raises(TrainingFailure, match=f"data.jsonl line 3: .*{problem}") as refusal:
        tokenize_file(path, make_tokenizer(), max_length_tokens=64)
    assert refusal.value.reason is FailureReason.BAD_DATA
    assert refusal.value.remedy
