"""What people may want of deployments. The reconciler makes it so."""

from deployments.services.checks import MAX_REPLICAS, NotServable
from deployments.services.deployments import (
    DeploymentIsDeleting,
    NameTaken,
    create_deployment,
    delete_deployment,
    scale_deployment,
)

__all__ = [
    "MAX_REPLICAS",
    "DeploymentIsDeleting",
    "NameTaken",
    "NotServable",
    "create_deployment",
    "delete_deployment",
    "scale_deployment",
]
