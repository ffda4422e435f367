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

__all__ = [
    "MAX_REPLICAS",
    "DeploymentIsDeleting",
    "NameTaken",
    "NotServable",
    "create_deployment",
    "delete_deployment",
    "remove_autoscaling",
    "scale_deployment",
    "set_autoscaling",
    "want_replicas",
]
