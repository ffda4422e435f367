"""Sentences for people: English for programs, the reader's language on pages, also out of JSON."""

import copy
import json
import pickle
from typing import Any

import pytest
from django.utils import translation

from common import texts
from common.texts import Text

CHINESE = {"%(count)s lines of %(what)s.": "%(what)s有 %(count)s 行。", "a file": "文件"}


@pytest.fixture
def chinese(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(translation, "gettext", lambda text: CHINESE.get(text, text))


def sentence() -> Text:
    return Text("%(count)s lines of %(what)s.", count=3, what=Text("a file"))


def test_a_text_is_its_english_sentence() -> None:
    assert sentence() == "3 lines of a file."
    assert json.dumps({"message": sentence()}) == '{"message": "3 lines of a file."}'
    assert Text("100 % of it") == "100 % of it"  # without values nothing is filled in
    assert Text("%(names)s", names=["a", Text("a file")]) == "a, a file"


@pytest.mark.usefixtures("chinese")
def test_a_page_says_it_in_the_readers_language() -> None:
    assert texts.shown(sentence()) == "文件有 3 行。"
    assert texts.shown("a file") == "文件"  # of a row that kept no making
    assert texts.shown("who knows") == "who knows"
    assert texts.shown("") == ""


@pytest.mark.usefixtures("chinese")
@pytest.mark.parametrize("again", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_a_copy_remembers_how_it_was_made(again: Any) -> None:
    assert texts.shown(again(sentence())) == "文件有 3 行。"


@pytest.mark.usefixtures("chinese")
def test_what_went_through_json_is_said_in_the_readers_language() -> None:
    kept = json.loads(json.dumps(texts.with_makings({"line": 7, "message": sentence()})))
    assert kept["message"] == "3 lines of a file."
    assert kept["line"] == 7
    assert texts.shown_from(kept, "message") == "文件有 3 行。"
    assert texts.shown_from({"message": "a file"}, "message") == "文件"
    assert texts.with_makings({"message": "plain"}) == {"message": "plain"}


@pytest.mark.usefixtures("chinese")
@pytest.mark.parametrize(
    "made",
    [{"template": "%(missing)s"}, {"template": "%(count)d", "values": {"count": "x"}}, 3, None],
)
def test_a_making_that_does_not_fit_leaves_the_sentence(made: object) -> None:
    kept = {"message": "as it was", "made_of": {"message": made}}
    assert texts.shown_from(kept, "message") == "as it was"
