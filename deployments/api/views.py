"""REST over deployments. Changes answer 202: the reconciler carries them out."""

from uuid import UUID

from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.api.views import OrganizationView
from common.api import PAGING, ErrorBody, Pagination, paginated
from deployments import selectors, services
from deployments.api import rollouts, serializers


class DeploymentList(OrganizationView):
    @extend_schema(
        operation_id="deployments_list",
        parameters=PAGING,
        responses={200: paginated(serializers.DeploymentBody)},
    )
    def get(self, request: Request) -> Response:
        """Deployments that are not deleted, newest first."""
        rows = selectors.list_deployments(self.organization)
        return Pagination.answer(rows, serializers.DeploymentBody, request, self)

    @extend_schema(
        request=serializers.DeploymentRequest,
        responses={
            202: serializers.DeploymentBody,
            400: ErrorBody,
            403: ErrorBody,
            404: ErrorBody,
            409: ErrorBody,
        },
    )
    def post(self, request: Request) -> Response:
        """Have a revision served under a public model name."""
        body = serializers.DeploymentRequest(data=request.data)
        body.is_valid(raise_exception=True)
        deployment = services.create_deployment(
            organization=self.organization,
            actor=self.actor,
            now=timezone.now(),
            **serializers.wanted(body.validated_data),
        )
        return Response(serializers.DeploymentBody(deployment).data, status=202)


class DeploymentDetail(OrganizationView):
    @extend_schema(responses={200: serializers.DeploymentBody, 404: ErrorBody})
    def get(self, request: Request, deployment_id: UUID) -> Response:
        """One deployment, also after it was deleted."""
        deployment = selectors.get_deployment(self.organization, deployment_id)
        return Response(serializers.DeploymentBody(deployment).data)

    @extend_schema(
        request=rollouts.DeploymentChange,
        responses={
            202: serializers.DeploymentBody,
            400: ErrorBody,
            403: ErrorBody,
            404: ErrorBody,
            409: ErrorBody,
        },
    )
    def patch(self, request: Request, deployment_id: UUID) -> Response:
        """Have its replicas run something else. The answer says what is served still; `rollout`
        names the rollout that brings the change."""
        rollouts.change_deployment(self, request, deployment_id)
        deployment = selectors.get_deployment(self.organization, deployment_id)
        return Response(serializers.DeploymentBody(deployment).data, status=202)

    @extend_schema(
        responses={
            202: serializers.DeploymentBody,
            403: ErrorBody,
            404: ErrorBody,
            409: ErrorBody,
        },
    )
    def delete(self, request: Request, deployment_id: UUID) -> Response:
        """Stop answering now; drain and stop the replicas. Refused while adapters are served on
        them."""
        deployment = services.delete_deployment(
            organization=self.organization,
            deployment_id=deployment_id,
            actor=self.actor,
            now=timezone.now(),
        )
        return Response(serializers.DeploymentBody(deployment).data, status=202)


class DeploymentScale(OrganizationView):
    @extend_schema(
        request=serializers.ScaleRequest,
        responses={
            202: serializers.DeploymentBody,
            400: ErrorBody,
            403: ErrorBody,
            404: ErrorBody,
            409: ErrorBody,
        },
    )
    def put(self, request: Request, deployment_id: UUID) -> Response:
        """How many replicas are wanted. On a failed deployment this starts it anew."""
        body = serializers.ScaleRequest(data=request.data)
        body.is_valid(raise_exception=True)
        deployment = services.scale_deployment(
            organization=self.organization,
            deployment_id=deployment_id,
            actor=self.actor,
            now=timezone.now(),
            **body.validated_data,
        )
        return Response(serializers.DeploymentBody(deployment).data, status=202)


class ReplicaList(OrganizationView):
    @extend_schema(
        operation_id="deployment_replicas_list",
        parameters=PAGING,
        responses={200: paginated(serializers.ReplicaBody), 404: ErrorBody},
    )
    def get(self, request: Request, deployment_id: UUID) -> Response:
        """All replicas that a deployment ever had, newest first."""
        deployment = selectors.get_deployment(self.organization, deployment_id)
        rows = selectors.list_replicas(deployment)
        return Pagination.answer(rows, serializers.ReplicaBody, request, self)


class AdapterList(OrganizationView):
    @extend_schema(
        operation_id="deployment_adapters_list",
        parameters=PAGING,
        responses={200: paginated(serializers.DeploymentBody), 404: ErrorBody},
    )
    def get(self, request: Request, deployment_id: UUID) -> Response:
        """The deployments of adapters that are served on this one's replicas, by name."""
        deployment = selectors.get_deployment(self.organization, deployment_id)
        rows = selectors.list_guests(deployment)
        return Pagination.answer(rows, serializers.DeploymentBody, request, self)


class EventList(OrganizationView):
    @extend_schema(
        operation_id="deployment_events_list",
        parameters=PAGING,
        responses={200: paginated(serializers.ReplicaEventBody), 404: ErrorBody},
    )
    def get(self, request: Request, deployment_id: UUID) -> Response:
        """What happened to a deployment's replicas, newest first."""
        deployment = selectors.get_deployment(self.organization, deployment_id)
        rows = selectors.list_events(deployment)
        return Pagination.answer(rows, serializers.ReplicaEventBody, request, self)
