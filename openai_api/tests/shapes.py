"""Whether an answer is what OpenAI's own client says that it is."""

import warnings
from typing import Any

LATER = {"status_details"}  # deprecated by OpenAI: there, and of no use
BEYOND = {"paused"}  # a status that OpenAI's API has and the client's types lack


def is_whole(body: Any) -> Any:
    """The body, of which every field is there, and of exactly the type that the client's models say;
    clients themselves take anything."""
    given = body.model_dump()
    if given.get("status") in BEYOND:
        given["status"] = "running"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        type(body).model_validate(given, strict=True)
    missing = set(type(body).model_fields) - set(body.model_fields_set) - LATER
    assert not missing, missing
    return body
