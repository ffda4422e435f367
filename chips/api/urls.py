"""The app's part of /api/v1/."""

from django.urls import URLPattern, URLResolver, path

from chips.api import views

urlpatterns: list[URLPattern | URLResolver] = [
    path("accelerator-types/", views.AcceleratorTypeList.as_view()),
    path("pools/", views.PoolList.as_view()),
    path("pools/<uuid:pool_id>/", views.PoolDetail.as_view()),
    path("pools/<uuid:pool_id>/grants/", views.PoolGrantList.as_view()),
    path("pools/<uuid:pool_id>/grants/<slug:organization>/", views.PoolGrantDetail.as_view()),
    path("nodes/", views.NodeList.as_view()),
    path("nodes/<uuid:node_id>/", views.NodeDetail.as_view()),
    path("nodes/<uuid:node_id>/cordon/", views.NodeCordon.as_view()),
    path("nodes/<uuid:node_id>/uncordon/", views.NodeUncordon.as_view()),
    path("accelerators/", views.AcceleratorList.as_view()),
    path("allocations/", views.AllocationList.as_view()),
    path("allowances/", views.AllowanceList.as_view()),
    path("prices/", views.PriceList.as_view()),
]
