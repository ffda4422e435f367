"""Conversations as the tokens that training sees: `python -m trainer.marked FOLDER FILE OUT`.

FOLDER has the tokenizer of a model with its chat template, FILE canonical lines. OUT gets a JSON
object for each example: `line` (of the file), `tokens`, `counted` (places of the tokens that count in
the loss: the answers') and `bytes` (of the answers as text). A conversation may be several examples.
Prints {"error": ...} where the lines or the template cannot be read, else {"examples": how many}.
"""

import json
import sys
from pathlib import Path

import numpy as np
from transformers import AutoTokenizer

from trainer.data import tokenize_file
from trainer.errors import TrainingFailure

LONGEST = 2**31 - 1  # nothing is cut: what a served model cannot take, it refuses


def main(folder: Path, lines: Path, out: Path) -> dict[str, object]:
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
        found = tokenize_file(lines, tokenizer, max_length_tokens=LONGEST)
    except TrainingFailure as error:
        return {"error": str(error)}
    except (OSError, ValueError, KeyError) as error:
        return {"error": f"the tokenizer cannot be loaded: {error}"}
    with out.open("w", encoding="utf-8") as file:
        for example in found.examples:
            answer = example.tokens[example.marks]
            text = tokenizer.decode(answer.tolist(), skip_special_tokens=True)
            told = {
                "line": example.line,
                "tokens": example.tokens.tolist(),
                "counted": np.flatnonzero(example.marks).tolist(),
                "bytes": len(text.encode()),
            }
            file.write(json.dumps(told, separators=(",", ":")) + "\n")
    return {"examples": len(found.examples)}


if __name__ == "__main__":
    answer = main(*(Path(each) for each in sys.argv[1:4]))
    sys.stdout.write(json.dumps(answer))
