"""DELETE /v1/models/ft:...: the gateway answers all else about models."""

from django.db.models import Q
from django.http import HttpRequest, HttpResponseBase, JsonResponse

from deployments import services as deployments
from deployments.models import Deployment
from engines.protocol.errors import no_such_model
from openai_api import selectors
from openai_api.api.views import ApiView


class FineTunedModel(ApiView):
    def delete(self, request: HttpRequest, model: str) -> HttpResponseBase:
        """Serve a fine-tuned model and its checkpoints no more. The job and the weights in the
        registry stay."""
        organization = self.caller.organization
        if not selectors.list_jobs(organization).filter(fine_tuned_model=model).exists():
            raise no_such_model(model)
        served = Q(name=model) | Q(name__startswith=f"{model}:")
        rows = Deployment.objects.of(organization).filter(served, deleted_at__isnull=True)
        if not rows.exists():
            raise no_such_model(model)
        for deployment_id in rows.values_list("pk", flat=True):
            deployments.delete_deployment(
                organization=organization,
                deployment_id=deployment_id,
                actor=self.caller.actor,
                now=self.now,
            )
        return JsonResponse({"id": model, "object": "model", "deleted": True})
