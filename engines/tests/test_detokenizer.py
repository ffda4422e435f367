import random

import pytest
from transformers import AutoTokenizer

from engines.builtin.detokenizer import Detokenizer, StopFinder
from engines.builtin.text import Text


@pytest.fixture(scope="module")
def text(tiny_model):
    return Text(str(tiny_model))


@pytest.fixture(scope="module")
def tokenizer(tiny_model):
    return AutoTokenizer.from_pretrained(tiny_model)


def test_pieces_join_to_what_the_tokenizer_says(text, tokenizer):
    written = "déjà vu 你好，世界 🙂🚚 <think>über</think> straße\n\tend<|im_end|>"
    ids = tokenizer.encode(written)
    detokenizer = Detokenizer()
    pieces = [detokenizer.push(text.raw(token)) for token in ids]
    assert "".join(pieces) == tokenizer.decode(ids, skip_special_tokens=True)
    assert "\ufffd" not in "".join(pieces)
    assert pieces.count("") > 1  # characters of several tokens were waited for


def test_any_tokens_give_the_tokenizers_text(text, tokenizer):
    dice = random.Random(0)
    for _ in range(50):
        ids = [dice.randrange(len(tokenizer)) for _ in range(60)]
        detokenizer = Detokenizer()
        joined = "".join(detokenizer.push(text.raw(token)) for token in ids)
        expected = tokenizer.decode(ids, skip_special_tokens=True)
        assert joined == expected or joined + "\ufffd" == expected  # its end is unfinished


def test_special_tokens_have_names_but_no_text(text, tokenizer):
    token = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert text.raw(token) == b""
    assert text.named(token) == b"<|im_end|>"
    assert text.raw(10**6) == b""


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_stops_are_found_wherever_the_text_is_cut(size):
    whole = "aab aabc abab END and more"
    for stops, expected in {
        ("abc",): "aab a",
        ("END",): "aab aabc abab ",
        ("abab", "END"): "aab aabc ",
        ("nothing",): whole,
        ("bc", "aabc"): "aab ",
    }.items():
        finder = StopFinder(stops)
        shown, stopped = "", False
        for at in range(0, len(whole), size):
            piece, stopped = finder.push(whole[at : at + size])
            shown += piece
            if stopped:
                break
        else:
            shown += finder.rest()
        assert shown == expected
        assert stopped == (expected != whole)


def test_what_might_begin_a_stop_waits():
    finder = StopFinder(["stop"])
    assert finder.push("a st") == ("a ", False)
    assert finder.push("o") == ("", False)
    assert finder.push("re") == ("store", False)
    assert finder.push("st") == ("", False)
    assert finder.rest() == "st"
