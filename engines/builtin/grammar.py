"""What an answer must look like, as a grammar in llguidance's dialect of Lark; None: anything.

A model that thinks may do so first. Calls are asked for in the model's own style, so that it
writes what it was taught and the reader of its calls understands it.
"""

import json
from collections.abc import Mapping
from typing import Any

from llguidance import regex_to_lark

from engines.builtin.text import Thought
from engines.protocol.dialect import Dialect
from engines.protocol.requests import Request
from engines.protocol.structure import Structure
from engines.protocol.tools import Tools

# Between the parts of a JSON text. Bounded, since models can fall into writing nothing else.
WHITE_SPACE = r"[\x20\n\r\t]{0,16}"

DEFINITIONS: tuple[str, ...] = ("$defs", "definitions")  # what parameters may refer to


def grammar_for(request: Request, dialect: Dialect, *, thought: Thought) -> str | None:
    """`thought` is what the prompt ends with."""
    rules = _Rules()
    tools = request.tools
    wanted: list[str] = []
    if tools and (tools.forced or request.structure):
        wanted.append(rules.calls(tools, dialect))
    if request.structure and not (tools and tools.forced):
        wanted.append(rules.structured(request.structure))
    if not wanted:
        return None
    first = rules.thought(dialect, thought) if request.is_chat else ""
    return "\n".join([f"start: {first}({' | '.join(wanted)})", *rules.lines]) + "\n"


class _Rules:
    """Each method adds the rules it needs and gives what stands for them."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def thought(self, dialect: Dialect, before: Thought) -> str:
        """What may come before what is asked for; nothing if it has been thought already."""
        if dialect.reasoning == "none" or before == "closed":
            return ""
        self._add("thought", "/(.|\\n)*/", suffix="</think>")
        rest = "thought /\\n{0,2}/"
        if before == "opened" or dialect.reasoning == "deepseek_r1":
            return rest + " "
        self._add("opened", f'"<think>" {rest}')
        return "opened? "

    def structured(self, structure: Structure) -> str:
        if structure.kind == "choice":
            return self._add("body", " | ".join(_text(each) for each in structure.value))
        if structure.kind == "regex":
            return self._add("body", f"/{regex_to_lark(structure.value)}/")
        return self._add("body", _json(structure.value, is_strict=structure.is_strict))

    def calls(self, tools: Tools, dialect: Dialect) -> str:
        names = tools.forced or list(tools.parameters)
        write = self._coder_call if dialect.tools == "qwen3_coder" else self._hermes_call
        for index, name in enumerate(names):
            write(f"call_{index}", name, tools.parameters[name])
        one = " | ".join(f"call_{index}" for index in range(len(names)))
        self._add("call", f'"<tool_call>\\n" ({one}) "\\n</tool_call>"')
        return self._add("calls", 'call ("\\n" call)*' if tools.is_parallel else "call")

    def _hermes_call(self, rule: str, name: str, schema: dict[str, Any]) -> None:
        head = f'{{"name": {json.dumps(name, ensure_ascii=False)}, "arguments": '
        arguments = self._add(f"{rule}_arguments", _json(_object(schema), is_strict=False))
        self._add(rule, f'{_text(head)} {arguments} "}}"')

    def _coder_call(self, rule: str, name: str, schema: dict[str, Any]) -> None:
        schema = _object(schema)
        shared = {word: schema[word] for word in DEFINITIONS if word in schema}
        parts = [_text(f"<function={name}>\n")]
        for index, (key, own) in enumerate(schema["properties"].items()):
            parameter = f"{rule}_{index}"
            value = self._coder_value(f"{parameter}_value", own, shared)
            self._add(parameter, f"{_text(f'<parameter={key}>' + chr(10))} {value}")
            parts.append(parameter if key in schema.get("required", ()) else parameter + "?")
        self._add(rule, " ".join([*parts, '"</function>"']))

    def _coder_value(self, rule: str, schema: Any, shared: Mapping[str, Any]) -> str:
        end = "\n</parameter>\n"
        schema = schema if isinstance(schema, dict) else {}
        allowed = schema.get("enum", [schema["const"]] if "const" in schema else None)
        if allowed and all(isinstance(each, str) for each in allowed):
            return self._add(rule, f"({' | '.join(map(_text, allowed))}) {_text(end)}")
        if schema.get("type", "string") == "string" and not {"anyOf", "oneOf", "$ref"} & {*schema}:
            most = schema.get("maxLength")
            times = f"{{0,{most}}}" if isinstance(most, int) and 0 <= most <= 10_000 else "*"
            return self._add(rule, f"/(.|\\n){times}/", suffix=end)
        value = self._add(f"{rule}_json", _json({**shared, **schema}, is_strict=False))
        return self._add(rule, f"{value} {_text(end)}")

    def _add(self, name: str, body: str, *, suffix: str = "") -> str:
        mark = f"[suffix={_text(suffix)}]" if suffix else ""
        self.lines.append(f"{name}{mark}: {body}")
        return name


def _object(schema: dict[str, Any]) -> dict[str, Any]:
    """Parameters are an object; where none are told, there are none."""
    if not schema.get("properties") and not {"$ref", "anyOf", "oneOf", "allOf"} & {*schema}:
        return {"type": "object", "properties": {}, "additionalProperties": False}
    properties = schema.get("properties")
    return (
        {"type": "object"}
        | schema
        | {"properties": properties if isinstance(properties, dict) else {}}
    )


def _json(schema: dict[str, Any], *, is_strict: bool) -> str:
    options = {"whitespace_pattern": WHITE_SPACE, "lenient": not is_strict}
    return "%json " + json.dumps({**schema, "x-guidance": options})


def _text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
