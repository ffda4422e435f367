from chips.models.accelerator import Accelerator
from chips.models.accelerator_type import AcceleratorType
from chips.models.allocation import AllocatedSlot, Allocation
from chips.models.free_allowance import FreeAllowance
from chips.models.node import Node
from chips.models.pool import Pool, PoolGrant
from chips.models.price_entry import PriceEntry

__all__ = [
    "Accelerator",
    "AcceleratorType",
    "AllocatedSlot",
    "Allocation",
    "FreeAllowance",
    "Node",
    "Pool",
    "PoolGrant",
    "PriceEntry",
]
