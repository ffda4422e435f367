"""One text of a tool call wherever a template renders it: counted, trained on, served."""

import json
from pathlib import Path
from typing import Any

import pytest

from engines.protocol.messages import read_messages
from trainer.conversations import read_conversations
from trainer.data import _render
from trainer.errors import TrainingFailure
from trainer.tests.make import make_tokenizer
from training import count_tokens

# How Qwen3's template writes calls: a text as it is, anything else as JSON of its own.
QWEN3 = (
    "{% if tools %}<tools>{% for tool in tools %}{{ tool | tojson }}{% endfor %}</tools>{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    '{% for call in m.tool_calls or [] %}<tool_call>\n{"name": "{{ call.function.name }}", '
    '"arguments": {% if call.function.arguments is string %}{{ call.function.arguments }}'
    "{% else %}{{ call.function.arguments | tojson }}{% endif %}}\n</tool_call>{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TOOLS = [{"type": "function", "function": {"name": "order", "parameters": {"type": "object"}}}]


def row(arguments: Any) -> dict[str, Any]:
    call = {"id": "c1", "type": "function", "function": {"name": "order", "arguments": arguments}}
    return {
        "messages": [
            {"role": "user", "content": "Where is order 12 of Jürgen?"},
            {"role": "assistant", "content": None, "tool_calls": [call], "weight": 1},
            {"role": "tool", "tool_call_id": "c1", "content": "Hamburg"},
            {"role": "assistant", "content": "In Hamburg."},
        ],
        "tools": TOOLS,
    }


@pytest.mark.parametrize(
    "arguments", ['{"number":12,"name":"J\\u00fcrgen"}', {"number": 12, "name": "Jürgen"}]
)
def test_calls_are_rendered_alike_by_doctor_trainer_and_engine(
    tmp_path: Path, arguments: Any
) -> None:
    tokenizer = make_tokenizer(chat_template=QWEN3)
    path = tmp_path / "train.jsonl"
    path.write_text(json.dumps(row(arguments)) + "\n")
    (conversation,) = read_conversations(path)
    (trained,) = _render(path, conversation, tokenizer)
    template = count_tokens.environment().from_string(QWEN3)
    (counted,) = count_tokens.rendered(1, path.read_bytes(), template, {})
    served = tokenizer.apply_chat_template(
        read_messages(row(arguments)["messages"]), tools=TOOLS, tokenize=False
    )
    assert trained.text == counted == served
    assert '"arguments": {"number": 12, "name": "Jürgen"}}' in trained.text


def test_a_call_that_cannot_be_read_names_its_line(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text(json.dumps(row("{")) + "\n")
    with pytest.raises(TrainingFailure, match="line 1: message 2 has a tool call"):
        list(read_conversations(path))
