"""What is asked of a run, checked and written out in full: the same for runs and for plans of them.

Hyperparameters are what was given, then the recipe's, then the trainer's own defaults.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from accounts.models import Organization
from chips import selectors as chips_selectors
from common.errors import InvalidInput, NotFound
from common.texts import Text
from models_registry.choices import RevisionKind
from models_registry.models import Revision
from trainer.errors import SpecError
from trainer.spec import DATA_KINDS, LEARNING_RATES, METHODS, Hyperparameters, check_method
from training import planning, recipes
from training.choices import Tuning
from training.models import DatasetSplit, DatasetVersion
from training.recipes import Recipe
from training.services.dataset_versions import check_ready

MAX_ACCELERATORS = 64
TRAINABLE = (RevisionKind.BASE, RevisionKind.FULL)


@dataclass(frozen=True)
class Asked:
    """`recipe` is None where none fits and the trainer's own defaults hold."""

    base: Revision
    version: DatasetVersion
    recipe: Recipe | None
    hyperparameters: dict[str, Any]

    @property
    def recipe_key(self) -> str:
        """name@version, or nothing."""
        return self.recipe.key if self.recipe is not None else ""


def check_asked(
    *,
    organization: Organization,
    base_revision_id: UUID,
    dataset_version_id: UUID,
    train_split: str,
    eval_split: str = "",
    method: str = "sft",
    tuning: str = Tuning.LORA,
    recipe: str = "",
    hyperparameters: Mapping[str, Any],
    accelerators: int = 1,
) -> Asked:
    """Raises InvalidInput with the field at fault, NotFound for a base or a dataset that the
    organization may not see."""
    base = find_base(organization, base_revision_id)
    version = _dataset_version(organization, dataset_version_id)
    _check_split(version, "train_split", train_split)
    if eval_split:
        _check_split(version, "eval_split", eval_split)
    _check_one_of("tuning", tuning, Tuning.values)
    _check_one_of("method", method, METHODS)
    if version.kind != DATA_KINDS[method]:
        able = [name for name, kind in DATA_KINDS.items() if kind == version.kind]
        raise InvalidInput(
            Text(
                "%(method)s learns from lines of kind %(wanted)s; %(version)s holds lines of "
                "kind %(kind)s.",
                method=method,
                wanted=DATA_KINDS[method],
                version=version,
                kind=version.kind,
            ),
            field="method",
            remedy=Text("Use one of %(names)s, or another dataset.", names=list(able)),
        )
    if not 1 <= accelerators <= MAX_ACCELERATORS:
        raise InvalidInput(
            Text("%(accelerators)s accelerators cannot be asked for.", accelerators=accelerators),
            field="accelerators",
            remedy=Text("Ask for 1 to %(most)s.", most=MAX_ACCELERATORS),
        )
    chosen = recipes.choose(
        recipe,
        method=method,
        tuning=tuning,
        model_type=base.model_type,
        parameters=base.parameter_count,
    )
    values = _settle(hyperparameters, chosen, method=method, tuning=tuning, base=base)
    _check_together(values, method=method, tuning=tuning)
    _check_chips(organization, tuning)
    return Asked(base, version, chosen, values)


def check_evaluated(asked: Asked, eval_split: str) -> None:
    """Raises InvalidInput (eval_split) where something hangs on evaluations and there are none."""
    if Hyperparameters.from_json(asked.hyperparameters).needs_evaluations and not eval_split:
        raise InvalidInput(
            Text("There is nothing held out to find the best by."),
            field="eval_split",
            remedy=Text("Name a split to evaluate on, or leave early stopping and keep_best out."),
        )


def find_base(organization: Organization, revision_id: UUID) -> Revision:
    """A revision that can be trained on. Raises NotFound, InvalidInput (base_revision)."""
    base = Revision.objects.of(organization).filter(pk=revision_id).first()
    if base is None:
        raise NotFound(Text("No such revision."), field="base_revision")
    if base.kind not in TRAINABLE:
        raise InvalidInput(
            Text(
                "%(base)s is of kind %(kind)s, which cannot be trained further.",
                base=base,
                kind=base.kind,
            ),
            field="base_revision",
            remedy=Text("Choose a base model or a full fine-tune."),
        )
    return base


def _dataset_version(organization: Organization, version_id: UUID) -> DatasetVersion:
    rows = DatasetVersion.objects.filter(dataset__organization=organization)
    version = rows.filter(pk=version_id).first()
    if version is None:
        raise NotFound(Text("No such dataset version."), field="dataset_version")
    check_ready(version)
    return version


def _check_split(version: DatasetVersion, field: str, name: str) -> None:
    names = DatasetSplit.objects.filter(version=version).values_list("name", flat=True)
    if name not in names:
        raise InvalidInput(
            Text("%(version)s has no split %(name)s.", version=version, name=repr(name)),
            field=field,
            remedy=Text("Use one of %(names)s.", names=list(names)),
        )


def _check_one_of(field: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise InvalidInput(
            Text("%(value)s is no %(field)s of training.", value=repr(value), field=field),
            field=field,
            remedy=Text("Use one of %(names)s.", names=list(allowed)),
        )


def _settle(
    given: Mapping[str, Any], recipe: Recipe | None, *, method: str, tuning: str, base: Revision
) -> dict[str, Any]:
    wanted = recipe.values_for(parameters=base.parameter_count) if recipe is not None else {}
    if "batch_size" in given:  # accumulation makes up a step together with the recipe's own batch
        wanted.pop("gradient_accumulation", None)
    try:
        values = Hyperparameters.from_json({**wanted, **given}).to_json()
    except SpecError as error:
        raise InvalidInput(error.message, field=error.field, remedy=error.remedy) from error
    values["learning_rate"] = values["learning_rate"] or LEARNING_RATES[method][tuning]
    _fit_length(values, given, base)
    return values


def _check_together(values: Mapping[str, Any], *, method: str, tuning: str) -> None:
    """What each allows on its own and all together do not."""
    try:
        check_method(method, tuning, Hyperparameters.from_json(values))
    except SpecError as error:
        raise InvalidInput(error.message, field=error.field, remedy=error.remedy) from error


def list_refused_tunings(organization: Organization) -> dict[str, tuple[list[str], list[str]]]:
    """Those that no accelerator which the organization may use can do: by tuning, what torch must
    call an accelerator for it, and what it calls the organization's."""
    present = chips_selectors.list_torch_devices(organization)
    return {
        tuning: (sorted(wanted), sorted(present))
        for tuning, wanted in planning.DEVICES_OF_TUNING.items()
        if not wanted & present
    }


def _check_chips(organization: Organization, tuning: str) -> None:
    """Refuse what no accelerator that the organization may use can do, free or not."""
    if tuning not in planning.DEVICES_OF_TUNING:
        return
    refused = list_refused_tunings(organization).get(tuning)
    if refused is not None:
        wanted, present = refused
        raise InvalidInput(
            Text(
                "%(tuning)s needs an accelerator of kind %(wanted)s; yours are %(present)s.",
                tuning=tuning,
                wanted="/".join(wanted),
                present=", ".join(present) or Text("none"),
            ),
            field="tuning",
            remedy=Text("Use lora, or ask for access to a pool with such accelerators."),
        )


def _fit_length(values: dict[str, Any], given: Mapping[str, Any], base: Revision) -> None:
    limit = base.context_length_tokens
    if not limit or values["max_length_tokens"] <= limit:
        return
    if "max_length_tokens" in given:
        raise InvalidInput(
            Text(
                "%(base)s reads at most %(limit)s tokens, not %(asked)s.",
                base=base,
                limit=limit,
                asked=values["max_length_tokens"],
            ),
            field="hyperparameters.max_length_tokens",
            remedy=Text("Give %(limit)s or less, or leave it out.", limit=limit),
        )
    values["max_length_tokens"] = limit
