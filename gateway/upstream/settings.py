"""How long engines may take, and where they are."""

from dataclasses import dataclass

Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long to wait, in seconds. `pooled`: less than engines keep an idle connection open;
    `stale`: a pooled connection that is lost so soon after a request was sent, and before a byte
    of its answer, had been closed by its engine before; later, the engine broke over the request.
    """

    connect: float = 2.0
    first_byte: float = 600.0  # an answer that is not streamed comes whole, at its end
    idle: float = 120.0  # between two pieces of an answer
    pooled: float = 30.0
    stale: float = 1.0
