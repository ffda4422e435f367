"""The functions a client offers and the reader of their calls."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from engines.protocol import fields
from engines.protocol.coder import CoderReader
from engines.protocol.dialect import Dialect
from engines.protocol.errors import invalid, unsupported
from engines.protocol.hermes import HermesReader
from engines.protocol.reading import ToolReader

MAX_TOOLS = 128
NAME = re.compile(r"""^[^\s<>"'=\\]{1,128}$""")
CHOICES = ("none", "auto", "required")


@dataclass(frozen=True, kw_only=True)
class Tools:
    """What may be called. `offered` is as the client wrote it, for the template."""

    offered: Sequence[dict[str, Any]]
    forced: Sequence[str] = ()  # one of these must be called; empty: as the model likes
    is_parallel: bool = True  # several calls in one answer are welcome
    parameters: Mapping[str, Any] = field(init=False)  # each function's schema, by its name

    def __post_init__(self) -> None:
        functions = [tool["function"] for tool in self.offered]
        schemas = {each["name"]: each.get("parameters") or {} for each in functions}
        object.__setattr__(self, "parameters", schemas)

    def reader(self, dialect: Dialect) -> ToolReader:
        if dialect.tools == "qwen3_coder":
            return CoderReader(self.parameters)
        return HermesReader()


def read_tools(body: Mapping[str, Any]) -> Tools | None:
    """None where nothing may be called. Raises ApiError naming the field at fault."""
    offered = body.get("tools")
    choice = body.get("tool_choice")
    if not offered:
        if offered is not None and not isinstance(offered, list):
            raise invalid("tools", "'tools' must be a list.", code="invalid_type")
        if choice not in (None, "none", "auto"):
            raise invalid("tool_choice", "'tool_choice' needs 'tools'.")
        return None
    if not isinstance(offered, list) or len(offered) > MAX_TOOLS:
        raise invalid("tools", f"'tools' must be a list of at most {MAX_TOOLS}.")
    names = [_check_tool(tool, f"tools[{index}]") for index, tool in enumerate(offered)]
    for index, name in enumerate(names):
        if name in names[:index]:
            raise invalid(f"tools[{index}].function.name", f"There are two functions {name!r}.")
    if choice == "none":
        return None
    parallel = body.get("parallel_tool_calls")
    return Tools(
        offered=offered,
        forced=_forced(choice, names),
        is_parallel=parallel is None or fields.boolean(body, "parallel_tool_calls"),
    )


def _check_tool(tool: Any, param: str) -> str:
    if not isinstance(tool, dict):
        raise invalid(param, f"'{param}' must be an object.", code="invalid_type")
    if tool.get("type") != "function":
        raise unsupported(f"{param}.type", "Only tools of type function are supported.")
    function = tool.get("function")
    if not isinstance(function, dict):
        raise invalid(f"{param}.function", f"'{param}.function' must be an object.")
    name = function.get("name")
    if not isinstance(name, str) or not NAME.match(name):
        message = "A function's name has 1 to 128 letters, digits, dots, dashes or underscores."
        raise invalid(f"{param}.function.name", message)
    if not isinstance(function.get("parameters") or {}, dict):
        where = f"{param}.function.parameters"
        raise invalid(where, f"'{where}' must be a JSON Schema object.", code="invalid_type")
    try:
        orjson.dumps(tool)
    except TypeError as error:  # orjson's way to say that it is nested too deeply
        raise invalid(param, f"'{param}' is too deep: {error}.") from None
    return name


def _forced(choice: Any, names: Sequence[str]) -> Sequence[str]:
    if choice in (None, "auto"):
        return ()
    if choice == "required":
        return tuple(names)
    if not isinstance(choice, dict):
        message = f"'tool_choice' must be one of {list(CHOICES)} or name a function."
        raise invalid("tool_choice", message)
    function = choice.get("function")
    name = function.get("name") if isinstance(function, dict) else None
    if choice.get("type", "function") != "function" or name not in names:
        raise invalid("tool_choice", f"'tool_choice' names {name!r}, which is not among 'tools'.")
    return (str(name),)
