"""What the documents say of the code is checked against the code."""

import re
from pathlib import Path

import pytest

from chips.choices import NODE_TRANSITIONS
from deployments.choices import (
    ATTACHMENT_TRANSITIONS,
    LOAD_TEST_TRANSITIONS,
    REPLICA_TRANSITIONS,
    ROLLOUT_TRANSITIONS,
)
from models_registry.choices import IMPORT_TRANSITIONS, MERGE_TRANSITIONS, TRIAL_TRANSITIONS
from openai_api.choices import BATCH_TRANSITIONS, JOB_TRANSITIONS
from training.choices import (
    COUNT_TRANSITIONS,
    EVALUATION_TRANSITIONS,
    RUN_TRANSITIONS,
    VERSION_TRANSITIONS,
)

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize(
    ("heading", "transitions"),
    [
        ("Node", NODE_TRANSITIONS),
        ("Replica", REPLICA_TRANSITIONS),
        ("Attachment", ATTACHMENT_TRANSITIONS),
        ("Rollout", ROLLOUT_TRANSITIONS),
        ("Load test", LOAD_TEST_TRANSITIONS),
        ("Training run", RUN_TRANSITIONS),
        ("Evaluation", EVALUATION_TRANSITIONS),
        ("Fine-tuning job", JOB_TRANSITIONS),
        ("Batch", BATCH_TRANSITIONS),
        ("Import", IMPORT_TRANSITIONS),
        ("Trial", TRIAL_TRANSITIONS),
        ("Merge", MERGE_TRANSITIONS),
        ("Dataset version", VERSION_TRANSITIONS),
        ("Token count", COUNT_TRANSITIONS),
    ],
)
def test_the_drawn_states_are_those_of_the_code(
    heading: str, transitions: dict[str, set[str]]
) -> None:
    text = (ROOT / "docs" / "states.md").read_text()
    section = text.split(f"## {heading}\n")[1].split("\n## ")[0]
    drawn = set(re.findall(r"^    (\w+) --> (\w+)", section, re.MULTILINE))
    coded = {(str(a), str(b)) for a, onward in transitions.items() for b in onward}
    assert drawn == coded


def test_no_document_links_to_a_file_that_is_not_there() -> None:
    documents = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    broken = [
        f"{document.name}: {target}"
        for document in documents
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text())
        if not (document.parent / target).exists()
    ]
    assert broken == []
