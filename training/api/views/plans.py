from django.utils import timezone
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.api.views import OrganizationView
from common.api import ErrorBody
from training import plans, recipes
from training.api import plan_bodies


class RecipeList(OrganizationView):
    @extend_schema(
        operation_id="training_recipes_list",
        parameters=[
            OpenApiParameter("method", str),
            OpenApiParameter("tuning", str),
            OpenApiParameter("parameters", int, description="Of the base: the batch follows it."),
        ],
        responses={200: plan_bodies.RecipeBody(many=True)},
    )
    def get(self, request: Request) -> Response:
        """The newest version of every recipe, each value with its reason and its source."""
        asked = request.query_params
        size = asked.get("parameters", "")
        found = recipes.list_recipes(method=asked.get("method", ""), tuning=asked.get("tuning", ""))
        context = {"parameters": int(size) if size.isdecimal() else None}
        return Response(plan_bodies.RecipeBody(found, many=True, context=context).data)


class TrainingPlanCreate(OrganizationView):
    @extend_schema(
        operation_id="training_plans_create",
        request=plan_bodies.TrainingPlanRequest,
        responses={200: plan_bodies.TrainingPlanBody, 400: ErrorBody, 404: ErrorBody},
    )
    def post(self, request: Request) -> Response:
        """What a run would take: memory and steps, and for every pool whether it fits, how long
        it takes and what it costs. Holds and changes nothing."""
        body = plan_bodies.TrainingPlanRequest(data=request.data)
        body.is_valid(raise_exception=True)
        asked = dict(body.validated_data)
        plan = plans.plan_training(
            organization=self.organization,
            base_revision_id=asked.pop("base_revision"),
            dataset_version_id=asked.pop("dataset_version"),
            now=timezone.now(),
            **asked,
        )
        return Response(plan_bodies.TrainingPlanBody(plan).data)
