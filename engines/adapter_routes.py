"""The admin routes for adapters, with vLLM's names, bodies and status codes.

POST /v1/load_lora_adapter    {"lora_name", "lora_path", "load_inplace"?}   200, 400, 404
POST /v1/unload_lora_adapter  {"lora_name"}                                 200, 400, 404
"""

from collections.abc import Awaitable, Callable
from typing import Any

from engines.adapters import Adapters
from engines.protocol import fields
from engines.protocol.errors import ApiError, invalid

LOAD = "/v1/load_lora_adapter"
UNLOAD = "/v1/unload_lora_adapter"
Action = Callable[[Adapters[Any], Any], Awaitable[str]]


async def load(adapters: Adapters[Any], body: Any) -> str:
    """Loads as the body says; a sentence for people. Raises ApiError."""
    name = _required(body, "lora_name")
    path = _required(body, "lora_path")
    await adapters.load(name, path, in_place=fields.boolean(body, "load_inplace"))
    return f"Success: LoRA adapter '{name}' added successfully."


async def unload(adapters: Adapters[Any], body: Any) -> str:
    """Unloads as the body says; a sentence for people. Raises ApiError."""
    name = _required(body, "lora_name")
    adapters.unload(name)
    return f"Success: LoRA adapter '{name}' removed successfully."


def _required(body: Any, name: str) -> str:
    if not isinstance(body, dict):
        raise ApiError(400, "The body must be a JSON object.", code="invalid_type")
    value = fields.text(body, name)
    if not value:
        raise invalid(name, f"'{name}' is required.", code="missing_required_parameter")
    return value
