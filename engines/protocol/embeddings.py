"""POST /v1/embeddings: what is asked for and what is answered."""

import base64
import math
from array import array
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from engines.protocol import fields
from engines.protocol.errors import invalid
from engines.protocol.requests import check_known, read_model, read_priority, read_texts

MAX_INPUTS = 1024
FIELDS = frozenset(("model", "input", "encoding_format", "dimensions", "priority", "user"))


@dataclass(frozen=True, kw_only=True)
class EmbeddingRequest:
    """Texts or token ids to be made into vectors."""

    model: str
    inputs: Sequence[str | list[int]]
    priority: int = 0
    is_base64: bool = False
    dimensions: int | None = None  # of the vectors; None: all they have


def read_embedding(body: Any, *, models: Collection[str]) -> EmbeddingRequest:
    """Raises ApiError naming the field at fault."""
    body = read_model(body, models)
    check_known(body, FIELDS)
    inputs = read_texts(body, "input")
    if len(inputs) > MAX_INPUTS:
        raise invalid("input", f"'input' may have at most {MAX_INPUTS} texts.")
    encoding = fields.text(body, "encoding_format") or "float"
    if encoding not in ("float", "base64"):
        raise invalid("encoding_format", "'encoding_format' must be float or base64.")
    return EmbeddingRequest(
        model=body["model"],
        inputs=inputs,
        priority=read_priority(body),
        is_base64=encoding == "base64",
        dimensions=fields.integer(body, "dimensions", low=1, high=1 << 16),
    )


def embedding_body(
    request: EmbeddingRequest, vectors: Sequence[bytes], *, prompt_tokens: int
) -> dict[str, Any]:
    """`vectors` are float32. Usage comes first, where it is found whatever the size of the rest."""
    data = [
        {"object": "embedding", "index": index, "embedding": _encoded(request, vector)}
        for index, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens}
    return {"object": "list", "model": request.model, "usage": usage, "data": data}


def _encoded(request: EmbeddingRequest, raw: bytes) -> str | list[float]:
    vector = array("f", raw)
    if request.dimensions is not None:
        vector = _shortened(vector, request.dimensions)
    if request.is_base64:
        return base64.b64encode(vector.tobytes()).decode()
    return vector.tolist()


def _shortened(vector: "array[float]", dimensions: int) -> "array[float]":
    """The first numbers, brought to length one: what models with nested vectors are trained for."""
    if dimensions > len(vector):
        message = f"'dimensions' must be at most {len(vector)}, which this model's vectors have."
        raise invalid("dimensions", message)
    first = vector[:dimensions]
    length = math.sqrt(math.fsum(each * each for each in first)) or 1.0
    return array("f", [each / length for each in first])
