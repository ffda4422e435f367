"""What a request may use. The data path knows `Limiter` and `Ticket` alone, not what stands behind."""

from gateway.limits.limiter import Limiter, Ticket
from gateway.limits.local import Limits, LimitSettings

__all__ = ["LimitSettings", "Limiter", "Limits", "Ticket"]
