"""What may be done with hardware: nodes and pools, holding accelerators, the price book."""

from chips.services.accelerator_types import find_type, load_accelerator_types
from chips.services.allocations import NothingFits, allocate, release
from chips.services.allowances import set_allowance
from chips.services.nodes import (
    SeenAccelerator,
    cordon_node,
    record_heartbeat,
    register_node,
    uncordon_node,
    watch_nodes,
)
from chips.services.pools import (
    PoolExists,
    create_pool,
    grant_pool,
    revoke_pool_grant,
    update_pool,
)
from chips.services.prices import PriceExists, set_price

__all__ = [
    "NothingFits",
    "PoolExists",
    "PriceExists",
    "SeenAccelerator",
    "allocate",
    "cordon_node",
    "create_pool",
    "find_type",
    "grant_pool",
    "load_accelerator_types",
    "record_heartbeat",
    "register_node",
    "release",
    "revoke_pool_grant",
    "set_allowance",
    "set_price",
    "uncordon_node",
    "update_pool",
    "watch_nodes",
]
