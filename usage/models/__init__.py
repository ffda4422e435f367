from usage.models.usage_event import UsageEvent
from usage.models.usage_record import UsageRecord

__all__ = ["UsageEvent", "UsageRecord"]
