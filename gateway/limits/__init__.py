"""Who may send how much: see limiter.py for what the data path relies on."""

from gateway.limits.limiter import Limiter, Ticket, Wish
from gateway.limits.local import Limits, LimitSettings

__all__ = ["LimitSettings", "Limiter", "Limits", "Ticket", "Wish"]
