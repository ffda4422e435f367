"""Deployments' part of /api/v1/."""

from django.urls import URLPattern, URLResolver, path

from deployments.api import autoscaling, load_tests, plans, providers, rollouts, routes, views

urlpatterns: list[URLPattern | URLResolver] = [
    path("deployments/", views.DeploymentList.as_view()),
    path("deployments/<uuid:deployment_id>/", views.DeploymentDetail.as_view()),
    path("deployments/<uuid:deployment_id>/scale/", views.DeploymentScale.as_view()),
    path("deployments/<uuid:deployment_id>/autoscaling/", autoscaling.AutoscalingDetail.as_view()),
    path(
        "deployments/<uuid:deployment_id>/scaling-events/", autoscaling.ScalingEventList.as_view()
    ),
    path("deployments/<uuid:deployment_id>/replicas/", views.ReplicaList.as_view()),
    path("deployments/<uuid:deployment_id>/adapters/", views.AdapterList.as_view()),
    path("deployments/<uuid:deployment_id>/events/", views.EventList.as_view()),
    path("deployments/<uuid:deployment_id>/load-tests/", load_tests.LoadTestList.as_view()),
    path("load-tests/<uuid:load_test_id>/", load_tests.LoadTestDetail.as_view()),
    path("load-tests/<uuid:load_test_id>/cancel/", load_tests.LoadTestCancel.as_view()),
    path("deployments/<uuid:deployment_id>/rollouts/", rollouts.RolloutList.as_view()),
    path("rollouts/<uuid:rollout_id>/", rollouts.RolloutDetail.as_view()),
    path("rollouts/<uuid:rollout_id>/events/", rollouts.RolloutEventList.as_view()),
    path("rollouts/<uuid:rollout_id>/pause/", rollouts.RolloutPause.as_view()),
    path("rollouts/<uuid:rollout_id>/resume/", rollouts.RolloutResume.as_view()),
    path("rollouts/<uuid:rollout_id>/promote/", rollouts.RolloutPromote.as_view()),
    path("rollouts/<uuid:rollout_id>/abort/", rollouts.RolloutAbort.as_view()),
    path("rollouts/<uuid:rollout_id>/verdict/", rollouts.RolloutVerdict.as_view()),
    path("plans/", plans.Plans.as_view()),
    path("routes/", routes.RouteList.as_view()),
    path("routes/<uuid:route_id>/", routes.RouteDetail.as_view()),
    path("routes/<uuid:route_id>/shadow-answers/", routes.ShadowAnswerList.as_view()),
    path("providers/", providers.ProviderList.as_view()),
    path("providers/<uuid:provider_id>/", providers.ProviderDetail.as_view()),
    path("providers/<uuid:provider_id>/check/", providers.ProviderCheck.as_view()),
]
