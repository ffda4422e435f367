"""The app's part of /api/v1/."""

from django.urls import URLPattern, URLResolver, path

from accounts.api import limits, resources, schema

__all__ = ["schema", "urlpatterns"]  # to import `schema` is to describe our authentication

urlpatterns: list[URLPattern | URLResolver] = [
    path("organization/", resources.OrganizationDetail.as_view()),
    path("api-keys/", resources.ApiKeyList.as_view()),
    path("api-keys/<uuid:key_id>/", resources.ApiKeyDetail.as_view()),
    path("api-keys/<uuid:key_id>/rotate/", resources.ApiKeyRotation.as_view()),
    path("api-keys/<uuid:key_id>/previous-secret/", resources.ApiKeyPreviousSecret.as_view()),
    path("limits/", limits.LimitList.as_view()),
    path("limits/<uuid:limit_id>/", limits.LimitDetail.as_view()),
    path("limit-alerts/", limits.LimitAlertList.as_view()),
    path("members/", resources.MemberList.as_view()),
    path("members/<int:member_id>/", resources.MemberDetail.as_view()),
    path("audit-events/", resources.AuditEventList.as_view()),
]
