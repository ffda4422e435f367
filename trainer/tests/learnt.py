"""What the trainer would learn from a file: the text of the tokens that count in its loss."""

from pathlib import Path

from trainer import objectives
from trainer.spec import DATA_KINDS
from trainer.tests.make import make_spec, make_tokenizer

TEMPLATE = (
    "{% if tools %}<|im_start|>tools\n{{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% for c in m.tool_calls %}[{{ c.function.name }} {{ c.function.arguments | tojson }}]"
    "{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
END = "<|im_end|>"


def learnt_from(path: Path, kind: str, scratch: Path) -> list[list[str]]:
    """By example, in order, its answers; of a preference the preferred one's comes first. Raises
    TrainingFailure for lines that the trainer does not take."""
    method = next(name for name, wanted in DATA_KINDS.items() if wanted == kind)
    tokenizer = make_tokenizer(chat_template=TEMPLATE)
    spec = make_spec(scratch, base=scratch / "none", method=method)
    found = []
    for example in objectives.of(spec).read(path, tokenizer).examples:
        answers = tokenizer.decode(example.tokens[example.marks]).split(END)
        assert answers.pop() == "", "the end of an answer is learnt with it"
        found.append(answers)
    return found
