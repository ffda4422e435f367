"""What training on a dataset version would take, by a recipe that is chosen on its page."""

from dataclasses import dataclass, field
from uuid import UUID

from django.urls import reverse
from django.utils.http import urlencode

from common.errors import DomainError
from console import offers
from console.pages import ConsoleRequest, said
from models_registry.models import Revision
from trainer.spec import DATA_KINDS
from training import plans, recipes
from training.models import DatasetVersion
from training.plans import RunOption, TrainingPlan

SHOWN = 3  # pools
TRAIN = "train"


@dataclass
class DatasetPlan:
    """`refusal` says why there is no `plan` where a base and a recipe are chosen."""

    bases: list[tuple[str, str]]
    recipes: list[tuple[str, str]]
    base: str = ""
    recipe: str = ""
    plan: TrainingPlan | None = None
    options: list[RunOption] = field(default_factory=list)
    refusal: str = ""
    url: str = ""  # of the wizard with these choices


def make(request: ConsoleRequest, version: DatasetVersion) -> DatasetPlan | None:
    """For the base and recipe of the query, else the newest base and its default recipe; None where
    there is nothing to train, or no split to learn from."""
    bases = offers.revisions(request.organization, adapters=False)
    splits = [split.name for split in version.splits.all()]
    if not bases or not splits:
        return None
    known = {value for value, _label in bases}
    base_id = request.GET.get("base", "")
    if base_id not in known:
        own = str(version.tokenizer_revision_id)
        base_id = own if own in known else bases[0][0]
    base = Revision.objects.of(request.organization).get(pk=base_id)
    methods = [name for name, kind in DATA_KINDS.items() if kind == version.kind]
    fitting = [
        one
        for method in methods
        for one in recipes.list_recipes(method=method)
        if one.fits(model_type=base.model_type, parameters=base.parameter_count)
    ]
    made = DatasetPlan(
        bases=bases,
        recipes=[(one.key, f"{one.title} ({one.key})") for one in fitting],
        base=base_id,
    )
    if not fitting:
        return made
    default = recipes.default_for(
        method=methods[0],
        tuning="lora",
        model_type=base.model_type,
        parameters=base.parameter_count,
    )
    asked = request.GET.get("recipe", "")
    chosen = next((one for one in fitting if one.key == asked), default or fitting[0])
    made.recipe = chosen.key
    learnt = TRAIN if TRAIN in splits else splits[0]
    answers = {
        "base": base_id,
        "data": str(version.pk),
        "train_split": learnt,
        "method": chosen.method,
        "tuning": chosen.tuning,
        "recipe": chosen.key,
        "step": "where",
    }
    made.url = f"{reverse('console:run_create')}?{urlencode(answers)}"
    try:
        made.plan = plans.plan_training(
            organization=request.organization,
            base_revision_id=UUID(base_id),
            dataset_version_id=version.pk,
            train_split=learnt,
            method=chosen.method,
            tuning=chosen.tuning,
            recipe=chosen.key,
            now=request.now,
        )
    except DomainError as error:
        made.refusal = said(error)
    else:
        made.options = list(made.plan.options)[:SHOWN]
    return made
