"""How a model writes its thoughts and its tool calls, found out from its chat template.

Every Qwen generation marks them with tags, and its template shows which: it writes earlier calls
and thoughts back into the conversation the way the model was taught to write them.
"""

import re
from dataclasses import dataclass

OPENED_BY_PROMPT = re.compile(r"assistant(\n|\\n)<think>")


@dataclass(frozen=True, slots=True)
class Dialect:
    """Names are vLLM's parsers'.

    `tools`: hermes (JSON between tags), qwen3_coder (tags throughout), none (it cannot call).
    `reasoning`: qwen3 (it may think), deepseek_r1 (it always does, and does not write the opening
    tag), none.
    """

    tools: str = "none"
    reasoning: str = "none"


def find_dialect(template: str, *, tools: str = "auto", reasoning: str = "auto") -> Dialect:
    """The dialect that a chat template speaks, but for what the operator has decided."""
    return Dialect(
        tools=_tools(template) if tools == "auto" else tools,
        reasoning=_reasoning(template) if reasoning == "auto" else reasoning,
    )


def _tools(template: str) -> str:
    if "<function=" in template:
        return "qwen3_coder"
    return "hermes" if "<tool_call>" in template else "none"


def _reasoning(template: str) -> str:
    if "think>" not in template:
        return "none"
    always = OPENED_BY_PROMPT.search(template) and "enable_thinking" not in template
    return "deepseek_r1" if always else "qwen3"
