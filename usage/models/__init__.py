from usage.models.cost_centre import CostCentre
from usage.models.issued_statement import IssuedStatement
from usage.models.rejected_event import RejectedEvent
from usage.models.seal import Seal
from usage.models.storage_holding import StorageHolding
from usage.models.usage_event import UsageEvent
from usage.models.usage_record import UsageRecord

__all__ = [
    "CostCentre",
    "IssuedStatement",
    "RejectedEvent",
    "Seal",
    "StorageHolding",
    "UsageEvent",
    "UsageRecord",
]
