import json

import pytest

from gateway.counting import StreamedAnswer, Usage, WholeAnswer, read_usage

USAGE = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}
USAGE |= {"prompt_tokens_details": {"cached_tokens": 4}}  # type: ignore[dict-item]


def event(**body) -> bytes:
    return b"data: " + json.dumps(body, separators=(",", ":")).encode() + b"\n\n"


def delta(**fields) -> bytes:
    return event(choices=[{"index": 0, "delta": fields, "finish_reason": None}], usage=None)


ROLE = delta(role="assistant", content="")
TOKENS = [delta(content=text) for text in ("one ", 'a "usage":{ and \n\n "choices":[] ', "three")]
LAST = event(choices=[], usage=USAGE)
DONE = b"data: [DONE]\n\n"
WIRE = b"".join([ROLE, *TOKENS, LAST, DONE])


@pytest.mark.parametrize("size", [1, 2, 7, 50, 333, len(WIRE)])
def test_the_usage_chunk_is_taken_out_however_the_stream_is_cut(size):
    answer = StreamedAnswer(strips_usage=True)
    passed = b"".join(answer.take(WIRE[at : at + size]) for at in range(0, len(WIRE), size))
    assert passed + answer.rest() == b"".join([ROLE, *TOKENS, DONE])
    assert answer.usage() == Usage(9, 3, 4)


@pytest.mark.parametrize("size", [1, 7, 333, len(WIRE)])
def test_a_stream_with_usage_asked_for_is_passed_as_it_is(size):
    answer = StreamedAnswer(strips_usage=False)
    pieces = [WIRE[at : at + size] for at in range(0, len(WIRE), size)]
    assert [answer.take(piece) for piece in pieces] == pieces
    assert answer.usage() == Usage(9, 3, 4)


@pytest.mark.parametrize("strips", [True, False])
def test_of_a_stream_that_breaks_off_the_tokens_that_went_through_are_counted(strips):
    answer = StreamedAnswer(strips_usage=strips)
    for piece in (ROLE, TOKENS[0] + TOKENS[1], TOKENS[2][:20]):
        answer.take(piece)
    assert answer.usage() is None
    assert answer.tokens_passed == 2


def test_an_event_with_empty_choices_that_is_no_usage_stays():
    other = event(choices=[], prompt_filter_results=[])
    answer = StreamedAnswer(strips_usage=True)
    assert answer.take(other + TOKENS[0]) == other + TOKENS[0]
    assert answer.take(LAST + other) == other


def test_usage_of_a_whole_answer_wherever_it_stands():
    said = {"content": 'she said "usage":{"prompt_tokens":999}'}
    for body in (
        {"choices": [{"message": said}], "usage": USAGE},
        {"usage": USAGE, "choices": [{"message": said}]},
        {"choices": [{"message": said}], "usage": USAGE, "more": {"usage": None}},
    ):
        answer = WholeAnswer()
        raw = json.dumps(body).encode()
        assert answer.take(raw[:30]) + answer.take(raw[30:]) == raw
        assert answer.usage() == Usage(9, 3, 4)
    assert read_usage(json.dumps({"choices": [{"message": said}]}).encode()) is None
    assert read_usage(b'{"usage":{"prompt_tok') is None
