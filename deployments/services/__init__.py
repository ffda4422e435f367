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
from deployments.services.providers import (
    Prices,
    ProviderExists,
    ProviderInUse,
    ask_for_check,
    create_provider,
    delete_provider,
    update_provider,
)
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
from deployments.services.routes import (
    KEPT,
    RouteExists,
    RouteOfDeployment,
    WantedShadow,
    WantedTarget,
    create_route,
    delete_route,
    update_route,
)

__all__ = [
    "KEPT",
    "MAX_REPLICAS",
    "Change",
    "DeploymentIsDeleting",
    "HostInUse",
    "LoadTestRuns",
    "NameTaken",
    "NotGated",
    "NotServable",
    "NothingToRoll",
    "Prices",
    "ProviderExists",
    "ProviderInUse",
    "RolloutIsOver",
    "RouteExists",
    "RouteOfDeployment",
    "ServedByHost",
    "WantedShadow",
    "WantedTarget",
    "abort_rollout",
    "ask_for_check",
    "cancel_load_test",
    "create_deployment",
    "create_provider",
    "create_route",
    "delete_deployment",
    "delete_provider",
    "delete_route",
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
    "update_provider",
    "update_route",
    "want_replicas",
]
