"""How many lines may be under way at once: what people who wait for answers leave free.

A model's replicas decode so many sequences together (`max_concurrency`). A tenth of that is kept
for whoever comes next; what others have open is taken off, and where any of them has to be held
because no replica is ready, batches stand back altogether.
"""

from uuid import UUID

from deployments import selectors, signals

SHARE = 0.9
MOST = 32  # lines under way of one batch and model, in one worker
OUTSIDE = 4  # of a model that providers answer: nobody knows what room they have


def free_places(organization_id: UUID, model_name: str, *, own: int) -> int:
    """How many lines a batch may have under way, of which it has `own` now. 0 while nobody knows
    what gateways have open, or no replica is ready; 1 where one comes with demand."""
    row = next(
        (
            each
            for each in selectors.get_routing_table()
            if each.organization_id == organization_id and each.name == model_name
        ),
        None,
    )
    now = signals.read_now()
    if row is None or now is None:
        return 0
    targets = [each for each in row.targets if each.weight]
    capacity = sum(len(each.replicas) * each.max_concurrency for each in targets)
    if not capacity:
        if any(each.scales for each in targets):
            return 1
        return OUTSIDE if row.outside else 0
    if any(now.held_for(each.deployment_id) for each in targets):
        return 0
    replicas = {replica.id for each in targets for replica in each.replicas}
    others = max(0, now.in_flight_on(replicas) - own)
    places = int(capacity * SHARE) - others
    return min(MOST, max(places, 0 if others else 1))
