from deployments.models.attachment import Attachment
from deployments.models.autoscaling import Autoscaling, ScalingEvent
from deployments.models.custom_engine import CustomEngine
from deployments.models.deployment import Deployment
from deployments.models.load_test import LoadTest
from deployments.models.replica import Replica, ReplicaEvent
from deployments.models.rollout import Rollout, RolloutEvent
from deployments.models.route import Provider, Route, RouteTarget, ShadowAnswer
from deployments.models.variant import Variant

__all__ = [
    "Attachment",
    "Autoscaling",
    "CustomEngine",
    "Deployment",
    "LoadTest",
    "Provider",
    "Replica",
    "ReplicaEvent",
    "Rollout",
    "RolloutEvent",
    "Route",
    "RouteTarget",
    "ScalingEvent",
    "ShadowAnswer",
    "Variant",
]
