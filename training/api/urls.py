"""Training's part of /api/v1/."""

from django.urls import URLPattern, URLResolver, path

from training.api.views import benchmarks, datasets, evaluations, gates, plans, runs, token_counts

VERSION = "dataset-versions/<uuid:version_id>/"
RUN = "training-runs/<uuid:run_id>/"
EVALUATION = "evaluations/<uuid:evaluation_id>/"

urlpatterns: list[URLPattern | URLResolver] = [
    path("datasets/", datasets.DatasetList.as_view()),
    path("datasets/<uuid:dataset_id>/", datasets.DatasetDetail.as_view()),
    path("datasets/<uuid:dataset_id>/versions/", datasets.VersionList.as_view()),
    path(VERSION, datasets.VersionDetail.as_view()),
    path(f"{VERSION}findings/", datasets.VersionFindings.as_view()),
    path(f"{VERSION}lines/", datasets.VersionLines.as_view()),
    path(f"{VERSION}token-counts/", token_counts.TokenCountList.as_view()),
    path(f"{VERSION}estimate/", datasets.VersionEstimate.as_view()),
    path("training-recipes/", plans.RecipeList.as_view()),
    path("training-plans/", plans.TrainingPlanCreate.as_view()),
    path("training-runs/", runs.RunList.as_view()),
    path("training-runs/compare/", runs.RunCompare.as_view()),
    path(RUN, runs.RunDetail.as_view()),
    path(f"{RUN}samples/", runs.RunSamples.as_view()),
    path(f"{RUN}tensorboard/", runs.RunTensorBoard.as_view()),
    path(f"{RUN}cancel/", runs.RunCancel.as_view()),
    path(f"{RUN}pause/", runs.RunPause.as_view()),
    path(f"{RUN}resume/", runs.RunResume.as_view()),
    path(f"{RUN}metrics/", runs.RunMetrics.as_view()),
    path(f"{RUN}events/", runs.RunEvents.as_view()),
    path(f"{RUN}checkpoints/", runs.RunCheckpoints.as_view()),
    path(f"{RUN}log/", runs.RunLog.as_view()),
    path("benchmark-tasks/", benchmarks.TaskList.as_view()),
    path("evaluations/", evaluations.EvaluationList.as_view()),
    path(EVALUATION, evaluations.EvaluationDetail.as_view()),
    path(f"{EVALUATION}cancel/", evaluations.EvaluationCancel.as_view()),
    path(f"{EVALUATION}answers/", evaluations.EvaluationAnswers.as_view()),
    path("evaluation-metrics/", evaluations.MetricKinds.as_view()),
    path("models/<uuid:model_id>/gates/", gates.GateList.as_view()),
    path("models/<uuid:model_id>/gates/<slug:alias>/", gates.GateDetail.as_view()),
]
