"""Benchmark tasks of lm-eval: uploaded or taken, and what a task asks."""

from typing import BinaryIO, cast

import yaml
from django import forms
from django.http import HttpResponse
from django.urls import reverse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from accounts.choices import Capability
from common.errors import DomainError
from console.dataset_forms import ManyFilesField
from console.dataset_pages import crumbs_of, title_of
from console.pages import ConsoleRequest, add_refusal, console_page, done, show
from training import services
from training.models import DatasetVersion


class TaskForm(forms.Form):
    name = forms.CharField(label=gettext_lazy("Name"), max_length=96)
    offered = forms.ChoiceField(
        label=gettext_lazy("Task"),
        required=False,
        help_text=gettext_lazy("One that the operator offers, or your own files."),
    )
    files = ManyFilesField(  # type: ignore[assignment]
        label=gettext_lazy("Files"),
        required=False,
        help_text=gettext_lazy("One YAML of lm-eval and the JSON lines that it names."),
    )

    def clean(self) -> dict[str, object]:
        cleaned: dict[str, object] = super().clean() or {}
        if not cleaned.get("offered") and not cleaned.get("files"):
            self.add_error("files", _("Choose the task's files, or an offered task."))
        return cleaned


@console_page(Capability.DEVELOP)
def task_upload(request: ConsoleRequest) -> HttpResponse:
    """A task as the next version of a dataset of that name. Refused by key, nothing kept."""
    form = TaskForm(request.POST or None, request.FILES or None)
    offered = [each["offered"] for each in services.list_offered() if not each["problem"]]
    field = cast(forms.ChoiceField, form.fields["offered"])
    field.choices = [("", _("My own files")), *((name, name) for name in offered)]
    if not offered:
        del form.fields["offered"]
    if request.method == "POST" and form.is_valid():
        try:
            version = _keep(request, form)
        except DomainError as error:
            add_refusal(form, error)
        else:
            text = _("%(version)s is checked and kept.") % {"version": version}
            return done(request, text, reverse("console:dataset_version", args=[version.pk]))
    return show(
        request,
        "console/benchmarks/upload.html",
        {
            "title": _("New benchmark task"),
            "lede": _("Questions and measures of lm-eval, asked of served models."),
            "crumbs": [{"label": _("Evaluations"), "url": reverse("console:evaluations")}],
            "form": form,
        },
        status=422 if form.errors else 200,
    )


def show_task(request: ConsoleRequest, version: DatasetVersion) -> HttpResponse:
    """A version of a task: how it asks, of which documents."""
    asked = version.report["evaluated_split"]
    return show(
        request,
        "console/benchmarks/task.html",
        {
            "title": title_of(version),
            "crumbs": crumbs_of(version)[:-1],
            "version": version,
            "splits": version.splits.all(),
            "asked": version.splits.get(name=asked),
            "task": yaml.safe_dump(version.report["task"], allow_unicode=True, sort_keys=False),
            "output_type": version.report["task"]["output_type"],
        },
    )


def _keep(request: ConsoleRequest, form: TaskForm) -> DatasetVersion:
    name = form.cleaned_data["name"]
    if offered := form.cleaned_data.get("offered"):
        return services.adopt_task(
            organization=request.organization,
            offered=offered,
            name=name,
            actor=request.actor,
            now=request.now,
        )
    return services.upload_task(
        organization=request.organization,
        name=name,
        files={str(file.name): cast(BinaryIO, file) for file in request.FILES.getlist("files")},
        actor=request.actor,
        now=request.now,
    )
