"""Deployments' part of /api/v1/."""

from django.urls import URLPattern, URLResolver, path

from deployments.api import views

urlpatterns: list[URLPattern | URLResolver] = [
    path("deployments/", views.DeploymentList.as_view()),
    path("deployments/<uuid:deployment_id>/", views.DeploymentDetail.as_view()),
    path("deployments/<uuid:deployment_id>/scale/", views.DeploymentScale.as_view()),
    path("deployments/<uuid:deployment_id>/replicas/", views.ReplicaList.as_view()),
    path("deployments/<uuid:deployment_id>/events/", views.EventList.as_view()),
    path("routes/", views.RouteList.as_view()),
]
