"""What a recipe is: hyperparameters for a method and a tuning, each with its reason."""

from collections.abc import Mapping
from dataclasses import dataclass

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

Value = float | int | str
Text = str | Promise

MILLION, BILLION = 10**6, 10**9

# Examples at once by the base's size: what a device that can hold it at all leaves memory for at
# the usual lengths. Estimated by `planner.training`, not measured; accumulation makes up the rest.
AT_ONCE = ((2 * BILLION, 8), (6 * BILLION, 4), (15 * BILLION, 2))


@dataclass(frozen=True)
class Setting:
    """One value, why it is that, and whose figure it is ("": ours, from runs of the trainer)."""

    value: Value
    reason: Text
    source: str = ""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Values for one method and tuning, for bases of its families within its sizes."""

    name: str
    version: int
    title: Text
    method: str
    tuning: str
    examples_a_step: Setting
    settings: Mapping[str, Setting]
    families: tuple[str, ...] = ()  # model types as config.json says them; empty: any
    parameters_from: int = 0
    parameters_until: int | None = None

    @property
    def key(self) -> str:
        return f"{self.name}@{self.version}"

    def fits(self, *, model_type: str, parameters: int | None) -> bool:
        """A base of unknown size counts as one of a billion parameters."""
        size = BILLION if parameters is None else parameters
        of_family = not self.families or model_type in self.families
        below = self.parameters_until is None or size < self.parameters_until
        return of_family and self.parameters_from <= size and below

    def settings_for(self, *, parameters: int | None) -> dict[str, Setting]:
        """All settings by the trainer's names, for a base of this size."""
        size = BILLION if parameters is None else parameters
        most = next((count for bound, count in AT_ONCE if size < bound), 1)
        if self.method == "dpo":
            most = max(most // 2, 1)  # an example is two answers
        elif self.method == "kto":
            most = max(most, 2)  # an answer is compared with those beside it
        step = int(self.examples_a_step.value)
        at_once = min(most, step)
        return {
            **self.settings,
            "batch_size": Setting(
                at_once, _("Examples at once: as many as a base of this size leaves memory for.")
            ),
            "gradient_accumulation": Setting(
                step // at_once, self.examples_a_step.reason, self.examples_a_step.source
            ),
        }

    def values_for(self, *, parameters: int | None) -> dict[str, Value]:
        return {
            name: setting.value
            for name, setting in self.settings_for(parameters=parameters).items()
        }
