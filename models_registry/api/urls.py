"""The registry's part of /api/v1/."""

from django.urls import URLPattern, URLResolver, path

from models_registry.api import merges, views

urlpatterns: list[URLPattern | URLResolver] = [
    path("models/", views.ModelList.as_view()),
    path("models/<uuid:model_id>/", views.ModelDetail.as_view()),
    path("models/<uuid:model_id>/revisions/", views.RevisionList.as_view()),
    path("models/<uuid:model_id>/aliases/<slug:alias>/", views.AliasDetail.as_view()),
    path("revisions/<uuid:revision_id>/", views.RevisionDetail.as_view()),
    path("revisions/<uuid:revision_id>/lineage/", views.RevisionLineage.as_view()),
    path("revisions/<uuid:revision_id>/merge/", merges.RevisionMergeRequest.as_view()),
    path("merges/", merges.MergeList.as_view()),
    path("merges/<uuid:merge_id>/", merges.MergeDetail.as_view()),
    path("imports/", views.ImportList.as_view()),
    path("imports/<uuid:import_id>/", views.ImportDetail.as_view()),
]
