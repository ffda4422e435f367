"""Deployments' part of /api/v1/."""

from django.urls import URLPattern, URLResolver, path

from deployments.api import load_tests, views

urlpatterns: list[URLPattern | URLResolver] = [
    path("deployments/", views.DeploymentList.as_view()),
    path("deployments/<uuid:deployment_id>/", views.DeploymentDetail.as_view()),
    path("deployments/<uuid:deployment_id>/scale/", views.DeploymentScale.as_view()),
    path("deployments/<uuid:deployment_id>/replicas/", views.ReplicaList.as_view()),
    path("deployments/<uuid:deployment_id>/adapters/", views.AdapterList.as_view()),
    path("deployments/<uuid:deployment_id>/events/", views.EventList.as_view()),
    path("deployments/<uuid:deployment_id>/load-tests/", load_tests.LoadTestList.as_view()),
    path("load-tests/<uuid:load_test_id>/", load_tests.LoadTestDetail.as_view()),
    path("load-tests/<uuid:load_test_id>/cancel/", load_tests.LoadTestCancel.as_view()),
    path("routes/", views.RouteList.as_view()),
]
