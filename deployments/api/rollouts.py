"""REST over rollouts: changes of what a deployment runs, and steering them."""

from collections.abc import Callable
from typing import Any
from uuid import UUID

from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.api.views import OrganizationView
from common.api import PAGING, ErrorBody, Pagination, paginated
from deployments import gate_states, selectors, services
from deployments.choices import Verdict
from deployments.models import Rollout, RolloutEvent, Variant

PLAN_HELP = (
    "How it goes: strategy (surge: new replicas beside old ones; replace: old ones end first), "
    "max_surge, max_unavailable, steps ([{weight, bake_seconds}]), max_failures, deadline_seconds, "
    "min_requests, max_error_share, error_ratio, max_first_token_seconds, first_token_ratio, "
    "is_gated, gate, gated_step. `gate` is a rule as of an alias's gate: the new revision has to have "
    "shown what it asks for, on the evaluation at hand or on one that the rollout begins, before the "
    "step `gated_step` (the first). What is left out is as in the deployment's `rollout_plan`, or else the platform's."
)


class VariantBody(serializers.ModelSerializer):
    revision_name = serializers.CharField(source="revision.__str__", read_only=True)

    class Meta:
        model = Variant
        fields = [
            "id",
            "number",
            "revision",
            "revision_name",
            "engine",
            "slots_per_replica",
            "accelerators_per_replica",
            "pool_name",
            "settings",
            "created_at",
        ]


class RolloutBody(serializers.ModelSerializer):
    from_variant = VariantBody(read_only=True, allow_null=True)
    to_variant = VariantBody(read_only=True)
    gate = serializers.SerializerMethodField(
        help_text="How its gate stands: rule, status (waiting, passed, failed, overridden), reasons, "
        "message, evaluation, evidence. Null where it has none."
    )

    def get_gate(self, rollout: Rollout) -> dict[str, Any] | None:
        state = gate_states.find(rollout)
        return state.as_json() if state is not None else None

    class Meta:
        model = Rollout
        fields = [
            "id",
            "deployment",
            "number",
            "status",
            "status_reason",
            "message",
            "from_variant",
            "to_variant",
            "step",
            "weight",
            "waits_for",
            "old_ready",
            "new_ready",
            "failures",
            "measured",
            "verdict",
            "verdict_evidence",
            "gate",
            "plan",
            "requested_by",
            "pause_requested_at",
            "promote_requested_at",
            "abort_requested_at",
            "created_at",
            "began_at",
            "step_entered_at",
            "ended_at",
        ]


class RolloutEventBody(serializers.ModelSerializer):
    class Meta:
        model = RolloutEvent
        fields = ["id", "at", "kind", "message"]


class RolloutRequest(serializers.Serializer):
    """What shall be different. A part that is left out stays as it is."""

    revision = serializers.UUIDField(required=False)
    engine = serializers.CharField(max_length=40, required=False)
    slots_per_replica = serializers.IntegerField(min_value=1, required=False)
    accelerators_per_replica = serializers.IntegerField(min_value=0, required=False)
    pool_name = serializers.CharField(max_length=60, allow_blank=True, required=False)
    settings = serializers.DictField(required=False, help_text="Replaced as a whole.")
    plan = serializers.DictField(required=False, help_text=PLAN_HELP)


class DeploymentChange(RolloutRequest):
    rollout_plan = serializers.DictField(
        required=False, help_text="As `plan`, for this and all later rollouts."
    )


class PromoteRequest(serializers.Serializer):
    override_reason = serializers.CharField(
        max_length=500,
        allow_blank=True,
        default="",
        help_text="Of an operator, to go past a gate that is not passed.",
    )


class VerdictRequest(serializers.Serializer):
    verdict = serializers.ChoiceField(choices=Verdict.choices)
    evidence = serializers.DictField(
        default=dict, help_text="What was evaluated, for people: it is kept as it is."
    )


def change_deployment(
    view: OrganizationView, request: Request, deployment_id: UUID
) -> Rollout | None:
    """What PATCH of a deployment and POST of a rollout have in common."""
    shape = DeploymentChange if request.method == "PATCH" else RolloutRequest
    body = shape(data=request.data)
    body.is_valid(raise_exception=True)
    values: dict[str, Any] = dict(body.validated_data)
    plan, standing_plan = values.pop("plan", None), values.pop("rollout_plan", None)
    if "revision" in values:
        values["revision_id"] = values.pop("revision")
    return services.update_deployment(
        organization=view.organization,
        deployment_id=deployment_id,
        change=services.Change(**values),
        plan=plan,
        standing_plan=standing_plan,
        actor=view.actor,
        now=timezone.now(),
    )


class RolloutList(OrganizationView):
    @extend_schema(
        operation_id="deployment_rollouts_list",
        parameters=PAGING,
        responses={200: paginated(RolloutBody), 404: ErrorBody},
    )
    def get(self, request: Request, deployment_id: UUID) -> Response:
        """All changes of what a deployment's replicas run, newest first."""
        deployment = selectors.get_deployment(self.organization, deployment_id)
        rows = selectors.list_rollouts(deployment)
        return Pagination.answer(rows, RolloutBody, request, self)

    @extend_schema(
        request=RolloutRequest,
        responses={
            202: RolloutBody,
            400: ErrorBody,
            403: ErrorBody,
            404: ErrorBody,
            409: ErrorBody,
        },
    )
    def post(self, request: Request, deployment_id: UUID) -> Response:
        """Have a deployment's replicas run something else, step by step. Refused where nothing
        would be different."""
        if selectors.get_deployment(self.organization, deployment_id).host_id is not None:
            raise services.NothingToRoll(
                "An adapter on another deployment's replicas is changed at once, not rolled out.",
                remedy="PATCH the deployment.",
            )
        rollout = change_deployment(self, request, deployment_id)
        if rollout is None:
            raise services.NothingToRoll(
                "The deployment runs exactly this.",
                remedy="Change its revision, engine, settings, pool or hardware.",
            )
        return _answer(self, rollout.pk, status=202)


class RolloutDetail(OrganizationView):
    @extend_schema(responses={200: RolloutBody, 404: ErrorBody})
    def get(self, request: Request, rollout_id: UUID) -> Response:
        """One rollout: where it stands, what was measured, why it ended."""
        return _answer(self, rollout_id)


class RolloutEventList(OrganizationView):
    @extend_schema(
        operation_id="rollout_events_list",
        parameters=PAGING,
        responses={200: paginated(RolloutEventBody), 404: ErrorBody},
    )
    def get(self, request: Request, rollout_id: UUID) -> Response:
        """What happened to a rollout, newest first."""
        rollout = selectors.get_rollout(self.organization, rollout_id)
        rows = selectors.list_rollout_events(rollout)
        return Pagination.answer(rows, RolloutEventBody, request, self)


STEERED = {202: RolloutBody, 403: ErrorBody, 404: ErrorBody, 409: ErrorBody}


class RolloutPause(OrganizationView):
    @extend_schema(request=None, responses=STEERED)
    def post(self, request: Request, rollout_id: UUID) -> Response:
        """Hold it: weights stay as they are. It still goes back if the new side does worse."""
        return _steer(self, services.pause_rollout, rollout_id)


class RolloutResume(OrganizationView):
    @extend_schema(request=None, responses=STEERED)
    def post(self, request: Request, rollout_id: UUID) -> Response:
        """Let it go on after a pause."""
        return _steer(self, services.resume_rollout, rollout_id)


class RolloutPromote(OrganizationView):
    @extend_schema(request=PromoteRequest, responses=STEERED | {400: ErrorBody})
    def post(self, request: Request, rollout_id: UUID) -> Response:
        """Skip the steps that are left: served whole as soon as its replicas are ready. Past a gate
        that is not passed only operators go, with a reason."""
        body = PromoteRequest(data=request.data)
        body.is_valid(raise_exception=True)
        return _steer(
            self,
            services.promote_rollout,
            rollout_id,
            may_override=self.may_operate,
            **body.validated_data,
        )


class RolloutAbort(OrganizationView):
    @extend_schema(request=None, responses=STEERED)
    def post(self, request: Request, rollout_id: UUID) -> Response:
        """Back to what was served; the new replicas drain."""
        return _steer(self, services.abort_rollout, rollout_id)


class RolloutVerdict(OrganizationView):
    @extend_schema(request=VerdictRequest, responses=STEERED | {400: ErrorBody})
    def put(self, request: Request, rollout_id: UUID) -> Response:
        """Whether the evaluation that its last step waits for was passed."""
        body = VerdictRequest(data=request.data)
        body.is_valid(raise_exception=True)
        return _steer(self, services.give_verdict, rollout_id, **body.validated_data)


def _steer(
    view: OrganizationView, service: Callable[..., Rollout], rollout_id: UUID, **values: Any
) -> Response:
    service(
        organization=view.organization,
        rollout_id=rollout_id,
        actor=view.actor,
        now=timezone.now(),
        **values,
    )
    return _answer(view, rollout_id, status=202)


def _answer(view: OrganizationView, rollout_id: UUID, *, status: int = 200) -> Response:
    rollout = selectors.get_rollout(view.organization, rollout_id)
    return Response(RolloutBody(rollout).data, status=status)
