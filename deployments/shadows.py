"""The stream in Redis on which gateways tell what a candidate answered, and what text is in it.

Each entry is one JSON object: `request_id`, `at` (seconds since 1970), `organization_id`,
`route_name`, `endpoint`, `is_streamed`, `request` (the body), `primary_name`, `candidate_name`, and
for `primary` and `candidate` their `status` (0: no answer), `body`, `output_tokens`,
`first_token_milliseconds` and `duration_milliseconds`. Bodies may be cut at their end.
"""

from typing import Any

import orjson

STREAM = "deployments:shadows"
FIELD = b"comparison"
MOST_ENTRIES = 500  # the oldest go first


def text_of(endpoint: str, body: str, *, is_streamed: bool) -> str:
    """What an answer says, of its first choice; of one that is no answer, the body itself."""
    if is_streamed and body.lstrip().startswith("data:"):
        return "".join(_pieces(endpoint, body))
    try:
        return _said(endpoint, orjson.loads(body), "message")
    except (orjson.JSONDecodeError, ValueError):
        return body


def _pieces(endpoint: str, body: str) -> list[str]:
    found = []
    for line in body.splitlines():
        if not line.startswith("data:") or line[5:].strip() == "[DONE]":
            continue
        try:
            found.append(_said(endpoint, orjson.loads(line[5:]), "delta"))
        except (orjson.JSONDecodeError, ValueError):
            continue  # the last one, cut
    return found


def _said(endpoint: str, values: Any, part: str) -> str:
    """Raises ValueError for what has no choices."""
    try:
        choices = values["choices"]
        if not choices or choices[0].get("index", 0):
            return ""
        if endpoint == "completions":
            return str(choices[0]["text"])
        message = choices[0][part]
        said = message.get("content") or ""
        if message.get("tool_calls"):
            said += orjson.dumps(message["tool_calls"]).decode()
        return str(said)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"no answer: {error!r}") from error
