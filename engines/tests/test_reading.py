"""Answers cut in every way must be read alike: thoughts, content and calls."""

import json
from typing import Any

import pytest

from engines.protocol.coder import CoderReader
from engines.protocol.dialect import Dialect, find_dialect
from engines.protocol.hermes import HermesReader
from engines.protocol.reading import AnswerReader, ThoughtReader

WEATHER = {
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer"},
        "units": {"enum": ["C", "F"]},
        "where": {"type": "object"},
        "exact": {"type": "boolean"},
        "note": {"type": ["string", "null"]},
    }
}
TOOLS = {"weather": WEATHER, "now": {}}


def gathered(reader, pieces, *, was_cut=False):
    """Content, reasoning and calls (name, arguments as text) from an answer's pieces of text."""
    found = [piece for text in pieces for piece in reader.push(text)]
    found += reader.end(was_cut=was_cut)
    calls: dict[int, list[str]] = {}
    for piece in found:
        assert piece.text
        if piece.kind == "call":
            assert piece.call == len(calls)
            calls[piece.call] = [piece.text, ""]
        elif piece.kind == "arguments":
            assert piece.call == len(calls) - 1  # of the call that was begun last
            calls[piece.call][1] += piece.text

    def told(kind):
        return "".join(piece.text for piece in found if piece.kind == kind)

    return told("content"), told("reasoning"), [tuple(call) for call in calls.values()]


def read(make, text, **rules):
    """What is read, however the text is cut: in two at any place, and character by character."""
    whole = gathered(make(), [text], **rules)
    assert gathered(make(), list(text), **rules) == whole
    for at in range(1, len(text)):
        assert gathered(make(), [text[:at], text[at:]], **rules) == whole, (text[:at], text[at:])
    for size in (2, 3, 7):
        cuts = [text[at : at + size] for at in range(0, len(text), size)]
        assert gathered(make(), cuts, **rules) == whole
    return whole


def coder():
    return CoderReader(TOOLS)


ONE = '<tool_call>\n{"name": "weather", "arguments": {"city": "Berlin", "days": 2}}\n</tool_call>'
HERMES: dict[str, Any] = {
    "plain": ("It is 7 < 8. <tool", "It is 7 < 8. <tool", []),
    "one": (ONE, "", [("weather", '{"city": "Berlin", "days": 2}')]),
    "after text": ("Let me look.\n\n" + ONE + "\n", "Let me look.", [("weather", None)]),
    "two": (ONE + "\n" + ONE, "", [("weather", None), ("weather", None)]),
    "text after": (ONE + "\nThat is it. ", "\nThat is it.", [("weather", None)]),
    "nested": (
        '<tool_call>{"name":"now","arguments":{"a":{"b":[1,{"c":"}\\" </tool_call> \\\\"}]}}}</tool_call>',
        "",
        [("now", '{"a":{"b":[1,{"c":"}\\" </tool_call> \\\\"}]}}')],
    ),
    "other order": (
        '<tool_call>\n{"arguments": {"x": 1}, "name": "now"}\n</tool_call>',
        "",
        [("now", '{"x": 1}')],
    ),
    "no arguments": ('<tool_call>{"name": "now"}</tool_call>', "", [("now", "{}")]),
    "null": ('<tool_call>{"name": "now", "arguments": null}</tool_call>', "", [("now", "{}")]),
    "text arguments": (
        '<tool_call>{"name": "now", "arguments": "{\\"x\\": 1}"}</tool_call>',
        "",
        [("now", '{"x": 1}')],
    ),
    "parameters": ('<tool_call>{"name":"now","parameters":{}}</tool_call>', "", [("now", "{}")]),
    "no end": ('<tool_call>\n{"name": "now", "arguments": {"x": 1}}', "", [("now", '{"x": 1}')]),
    "one brace too many": (
        '<tool_call>\n{"name": "now", "arguments": {"x": 1}}}\n</tool_call>',
        "",
        [("now", '{"x": 1}')],
    ),
    "one brace too few": (
        '<tool_call>\n{"name": "now", "arguments": {"x": 1}\n</tool_call> ok',
        " ok",
        [("now", '{"x": 1}')],
    ),
    "not JSON": (
        "hm <tool_call>weather in Berlin</tool_call> so",
        "hm <tool_call>weather in Berlin</tool_call> so",
        [],
    ),
    "no name": ('<tool_call>{"x": 1}</tool_call>', '<tool_call>{"x": 1}</tool_call>', []),
    "broken then sound": (
        "<tool_call>{oh}</tool_call>\n" + ONE,
        "<tool_call>{oh}</tool_call>",
        [("weather", None)],
    ),
    "never closed": ('a <tool_call>{"name": ', 'a <tool_call>{"name": ', []),
    "unicode": (
        '<tool_call>{"name": "weather", "arguments": {"city": "北京 🙂"}}</tool_call>',
        "",
        [("weather", '{"city": "北京 🙂"}')],
    ),
}


@pytest.mark.parametrize("name", HERMES)
def test_hermes_calls(name):
    text, content, calls = HERMES[name]
    said, _, called = read(HermesReader, text)
    assert said == content
    assert [call[0] for call in called] == [call[0] for call in calls]
    for (_, arguments), (_, expected) in zip(called, calls, strict=True):
        assert isinstance(json.loads(arguments), dict)
        assert expected is None or arguments == expected


def test_arguments_come_while_they_are_written():
    reader = HermesReader()
    reader.push('<tool_call>\n{"name": "now", "arguments": {"x": "a lo')
    assert [piece.text for piece in reader.push("ng text")] == ["ng text"]


def test_a_cut_hermes_call_keeps_what_it_has():
    text = '<tool_call>\n{"name": "now", "arguments": {"x": "a lo'
    assert read(HermesReader, text, was_cut=True) == ("", "", [("now", '{"x": "a lo')])


def call(*parameters, name="weather", tail="</function>\n</tool_call>"):
    inner = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in parameters)
    return f"<tool_call>\n<function={name}>\n{inner}{tail}"


CODER: dict[str, Any] = {
    "plain": ("a < b, <function", "a < b, <function", []),
    "one": (
        call(("city", "Berlin"), ("days", "2")),
        "",
        [("weather", {"city": "Berlin", "days": 2})],
    ),
    "types": (
        call(("where", '{"a": [1]}'), ("exact", "True"), ("note", "null"), ("units", "C")),
        "",
        [("weather", {"where": {"a": [1]}, "exact": True, "note": None, "units": "C"})],
    ),
    "numbers as text": (call(("city", "12")), "", [("weather", {"city": "12"})]),
    "not the type": (call(("days", "two")), "", [("weather", {"days": "two"})]),
    "untold": (call(("x", "1"), name="now"), "", [("now", {"x": "1"})]),
    "code": (
        call(("city", 'if a < b:\n\n    print("</param\\n")\n')),
        "",
        [("weather", {"city": 'if a < b:\n\n    print("</param\\n")\n'})],
    ),
    "empty": (call(("city", "")), "", [("weather", {"city": ""})]),
    "bare": ("<tool_call><function=now></function></tool_call>", "", [("now", {})]),
    "text around": ("Look:\n" + call() + "\nend", "Look:\nend", [("weather", {})]),
    "two": (call() + "\n" + call(name="now"), "", [("weather", {}), ("now", {})]),
    "without outer tags": (
        "so <function=now>\n<parameter=a>\nb\n</parameter>\n</function>",
        "so",
        [("now", {"a": "b"})],
    ),
    "function not closed": (
        call(("days", "1"), tail="</tool_call>"),
        "",
        [("weather", {"days": 1})],
    ),
    "nothing closed": (call(("days", "1"), tail=""), "", [("weather", {"days": 1})]),
    "stray": (
        call(("days", "1"), tail="oh <b> my </function></tool_call>"),
        "oh <b> my ",
        [("weather", {"days": 1})],
    ),
    "no function": (
        "x <tool_call>\n{json}\n</tool_call>",
        "x <tool_call>\n{json}\n</tool_call>",
        [],
    ),
    "no name": ("<tool_call>\n<function=\n>", "<tool_call>\n<function=\n>", []),
    "unicode": (call(("city", '北京 🙂 \t"')), "", [("weather", {"city": '北京 🙂 \t"'})]),
}


@pytest.mark.parametrize("name", CODER)
def test_coder_calls(name):
    text, content, calls = CODER[name]
    said, _, called = read(coder, text)
    assert said == content
    assert [(name, json.loads(arguments)) for name, arguments in called] == calls


def test_texts_come_while_they_are_written():
    reader = coder()
    reader.push("<tool_call>\n<function=weather>\n<parameter=city>\nSan ")
    assert [piece.text for piece in reader.push('Fran"cisco')] == ['Fran\\"cisco']


def test_a_cut_coder_call_is_not_made_whole():
    cut = "<tool_call>\n<function=weather>\n<parameter=city>\nSan Fran"
    assert read(coder, cut, was_cut=True) == ("", "", [("weather", '{"city": "San Fran')])
    cut = call(("days", "1"), tail="")
    assert read(coder, cut, was_cut=True) == ("", "", [("weather", '{"days": 1')])


class Thoughts:
    """Lets a reader of thoughts be read like one of calls."""

    def __init__(self, parser, *, in_thought=False):
        tools = None
        self._reader = AnswerReader(
            Dialect(reasoning=parser), in_thought=in_thought, tools=tools, one_call=False
        )

    def push(self, text):
        return self._reader.push(text)

    def end(self, *, was_cut):
        return self._reader.end(was_cut=was_cut)


THOUGHTS = [
    ("qwen3", False, "<think>\nhm\n\nso\n</think>\n\nYes.\n", "hm\n\nso", "Yes.\n"),
    ("qwen3", False, "\n <think>hm</think>Yes", "hm", "Yes"),
    ("qwen3", False, " Yes <think> no", "", " Yes <think> no"),
    ("qwen3", False, "<thin", "", "<thin"),
    ("qwen3", False, "<think>\n\n</think>\n\nYes", "", "Yes"),
    ("qwen3", False, "<think>\nnever ends </thi", "never ends </thi", ""),
    ("qwen3", True, "hm\n</think>\n\nYes", "hm", "Yes"),
    ("deepseek_r1", False, "hm </b> \n</think>Yes", "hm </b> ", "Yes"),
    ("deepseek_r1", False, "<think>\nhm</think>\n\nYes <think>", "hm", "Yes <think>"),
    ("deepseek_r1", False, "never ends\n", "never ends\n", ""),
    ("none", True, "<think>hm</think>Yes", "", "<think>hm</think>Yes"),
]


@pytest.mark.parametrize(("parser", "in_thought", "text", "thought", "said"), THOUGHTS)
def test_thoughts(parser, in_thought, text, thought, said):
    content, reasoning, _ = read(lambda: Thoughts(parser, in_thought=in_thought), text)
    assert (reasoning, content) == (thought, said)


def test_tags_of_calls_in_thoughts_are_no_calls():
    def make():
        dialect = Dialect(tools="hermes", reasoning="qwen3")
        return AnswerReader(dialect, in_thought=False, tools=HermesReader(), one_call=True)

    text = f"<think>I could use {ONE}.</think>\n{ONE}\n{ONE}"
    content, reasoning, calls = read(make, text)
    assert reasoning == f"I could use {ONE}."
    assert content == ""
    assert len(calls) == 1  # the second was not wanted


def test_it_says_whether_it_is_inside_a_thought():
    reader = ThoughtReader("qwen3", in_thought=False)
    places = [reader.is_inside]
    for text in ("<think>", "x</think>"):
        reader.push(text)
        places.append(reader.is_inside)
    assert places == [False, True, False]


@pytest.mark.parametrize(
    ("template", "tools", "reasoning"),
    [
        ("{{ messages }}", "none", "none"),
        ("<tool_call> ... </tool_call>", "hermes", "none"),
        ("<tool_call> enable_thinking <think>", "hermes", "qwen3"),
        ("<tool_call> '<|im_start|>assistant\\n<think>\\n'", "hermes", "deepseek_r1"),
        ("<tool_call><function=", "qwen3_coder", "none"),
        (
            "<tool_call><function= enable_thinking '<|im_start|>assistant\\n<think>\\n'",
            "qwen3_coder",
            "qwen3",
        ),
    ],
)
def test_the_dialect_is_found_from_the_template(template, tools, reasoning):
    assert find_dialect(template) == Dialect(tools=tools, reasoning=reasoning)
    assert find_dialect(template, tools="none", reasoning="deepseek_r1") == Dialect(
        tools="none", reasoning="deepseek_r1"
    )
