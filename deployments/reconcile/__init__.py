"""Making what is, what is wanted: deployments and placing on control workers, steps on agents."""

from deployments.adapters import list_out_of_step
from deployments.reconcile.attaching import attach_adapters, list_attached
from deployments.reconcile.deploying import list_unsettled, reconcile_deployment
from deployments.reconcile.placing import list_waiting, place_replica, release_leftovers
from deployments.reconcile.scaling import (
    Outlook,
    Sights,
    autoscale_all,
    follow,
    get_outlook,
    look,
    wake,
)
from deployments.reconcile.silence import end_silent
from deployments.reconcile.stepping import (
    break_leases,
    end_with_agent,
    is_at_rest,
    list_placed,
    next_status,
    step_replica,
)

__all__ = [
    "Outlook",
    "Sights",
    "attach_adapters",
    "autoscale_all",
    "break_leases",
    "end_silent",
    "end_with_agent",
    "follow",
    "get_outlook",
    "is_at_rest",
    "list_attached",
    "list_out_of_step",
    "list_placed",
    "list_unsettled",
    "list_waiting",
    "look",
    "next_status",
    "place_replica",
    "reconcile_deployment",
    "release_leftovers",
    "step_replica",
    "wake",
]
