"""All answers of an evaluation as a file, however many there are."""

import csv
import io

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from console.downloads import csv_stream
from console.views import evaluations
from training.models import Evaluation, EvaluationAnswer
from training.tests.test_evaluations import want

pytestmark = pytest.mark.django_db


def fill(evaluation: Evaluation, lines: int) -> None:
    EvaluationAnswer.objects.bulk_create(
        EvaluationAnswer(
            evaluation=evaluation,
            model_name=name,
            line=line,
            prompt="=HYPERLINK()",
            expected="1",
            answer="@x",
        )
        for line in range(1, lines + 1)
        for name in evaluation.model_names
    )


def test_pages_of_answers_are_bounded_and_whole() -> None:
    evaluation = want()
    fill(evaluation, 450)
    with CaptureQueriesContext(connection) as queries:
        pages = list(evaluations.answer_pages(evaluation))
    assert [len(page) for page in pages] == [398, 400, 102]
    assert len(queries) == 4
    assert [row[0] for page in pages for row in page[::2]] == list(range(1, 451))


async def test_no_cell_starts_a_formula() -> None:
    rows = [(1, "base", "=HYPERLINK()", "+1", "@x", False, "-")]
    response = csv_stream(["line", "model"], iter([rows]), "answers.csv")
    text = b"".join([piece async for piece in response]).decode().removeprefix("\ufeff")
    (_header, row) = csv.reader(io.StringIO(text))
    assert row == ["1", "base", "'=HYPERLINK()", "'+1", "'@x", "False", "'-"]
