"""What people may want of deployments. The reconciler makes it so."""

from deployments.services.autoscaling import remove_autoscaling, set_autoscaling
from deployments.services.checks import MAX_REPLICAS, NotServable
from deployments.services.deployments import (
    DeploymentIsDeleting,
    NameTaken,
    create_deployment,
    delete_deployment,
    scale_deployment,
    want_replicas,
)
from deployments.services.guests import HostInUse, ServedByHost
from deployments.services.load_tests import LoadTestRuns, cancel_load_test, start_load_test
from deployments.services.results import serve_result
from deployments.services.rollouts import (
    Change,
    NotGated,
    NothingToRoll,
    RolloutIsOver,
    abort_rollout,
    give_verdict,
    pause_rollout,
    promote_rollout,
    resume_rollout,
    update_deployment,
)

__all__ = [
    "MAX_REPLICAS",
    "Change",
    "DeploymentIsDeleting",
    "HostInUse",
    "LoadTestRuns",
    "NameTaken",
    "NotGated",
    "NotServable",
    "NothingToRoll",
    "RolloutIsOver",
    "ServedByHost",
    "abort_rollout",
    "cancel_load_test",
    "create_deployment",
    "delete_deployment",
    "give_verdict",
    "pause_rollout",
    "promote_rollout",
    "remove_autoscaling",
    "resume_rollout",
    "scale_deployment",
    "serve_result",
    "set_autoscaling",
    "start_load_test",
    "update_deployment",
    "want_replicas",
]
