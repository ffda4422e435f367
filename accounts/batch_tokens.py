"""What a batch shows the gateway for one of its lines: whose key it goes by, and which line it is.

A batch runs when nobody is there to send a secret, and the platform has none. So control signs the
line with a key derived from SECRET_KEY, and the gateway lets it in as the key that made the batch,
as long as that one stands. The line's name is the id of its usage event: however often a line is
sent, it counts once.
"""

import hashlib
import hmac
from dataclasses import dataclass
from uuid import UUID

from django.conf import settings

WORD = "batch"
SEPARATOR = "~"
SECONDS = 120  # that a token lets in


@dataclass(frozen=True, slots=True)
class BatchTicket:
    """`key_prefix` of the key that made the batch."""

    batch_id: UUID
    line: int
    key_prefix: str

    @property
    def usage_id(self) -> str:
        return f"batch-{self.batch_id.hex}-{self.line}"


def sign(ticket: BatchTicket, *, now: float) -> str:
    """The bearer token, good for some seconds from `now` (seconds since 1970) on."""
    said = SEPARATOR.join(
        (WORD, ticket.batch_id.hex, str(ticket.line), ticket.key_prefix, str(int(now) + SECONDS))
    )
    return f"{said}{SEPARATOR}{_mac(said)}"


def read(token: str, *, now: float) -> BatchTicket | None:
    """None for what was not signed here, or too long ago."""
    said, _, mac = token.rpartition(SEPARATOR)
    if not said or not hmac.compare_digest(_mac(said).encode(), mac.encode()):
        return None
    _word, batch, line, prefix, until = said.split(SEPARATOR)
    if int(until) < now:
        return None
    return BatchTicket(UUID(batch), int(line), prefix)


def _mac(said: str) -> str:
    key = f"batches:{settings.SECRET_KEY}".encode()
    return hmac.new(key, said.encode(), hashlib.sha256).hexdigest()
