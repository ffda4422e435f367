"""REST over organizations, members, keys and the audit log."""

from datetime import timedelta
from typing import ClassVar
from uuid import UUID

from django.utils import timezone
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from accounts import keys, services
from accounts.api import serializers
from accounts.api.views import OrganizationView
from accounts.choices import Capability, Role
from accounts.models import ApiKey, AuditEvent, Membership, User
from common.api import PAGING, ErrorBody, Pagination, paginated
from common.errors import InvalidInput, NotAllowed, NotFound


def reading(capability: str, *, changing: str = "") -> dict[str, str]:
    """A view's `capabilities`: one to read with, one to change with."""
    reads = dict.fromkeys(("GET", "HEAD", "OPTIONS"), capability)
    return reads | {"*": changing or capability}


class OrganizationDetail(OrganizationView):
    @extend_schema(responses={200: serializers.OrganizationBody})
    def get(self, request: Request) -> Response:
        """The organization that the key or session speaks for."""
        context = {"granted": self.granted}
        return Response(serializers.OrganizationBody(self.organization, context=context).data)


class ApiKeyList(OrganizationView):
    capabilities: ClassVar = reading(Capability.VIEW, changing=Capability.MANAGE_KEYS)

    @extend_schema(
        operation_id="api_keys_list",
        parameters=PAGING,
        responses={200: paginated(serializers.ApiKeyBody)},
    )
    def get(self, request: Request) -> Response:
        """Keys of the organization, revoked ones too, newest first."""
        rows = ApiKey.objects.of(self.organization).filter(is_internal=False)
        rows = rows.select_related("created_by")
        return Pagination.answer(rows, serializers.ApiKeyBody, request, self)

    @extend_schema(
        request=serializers.ApiKeyRequest,
        responses={201: serializers.NewApiKeyBody, 400: ErrorBody, 403: ErrorBody},
    )
    def post(self, request: Request) -> Response:
        """Make a key. Its secret is in this answer and never shown again."""
        body = serializers.ApiKeyRequest(data=request.data)
        body.is_valid(raise_exception=True)
        issued = services.issue_api_key(
            organization=self.organization,
            created_by=request.user if isinstance(request.user, User) else None,
            may_operate=self.may_operate,
            actor=self.actor,
            now=timezone.now(),
            **body.validated_data,
        )
        answer = serializers.ApiKeyBody(issued.row).data | {"secret": issued.secret}
        return Response(answer, status=201, headers={"Cache-Control": "no-store"})


class ApiKeyDetail(OrganizationView):
    capabilities: ClassVar = reading(Capability.VIEW, changing=Capability.MANAGE_KEYS)

    @extend_schema(responses={200: serializers.ApiKeyBody, 404: ErrorBody})
    def get(self, request: Request, key_id: UUID) -> Response:
        """One key."""
        return Response(serializers.ApiKeyBody(self._row(key_id)).data)

    @extend_schema(
        request=serializers.ApiKeyChange,
        responses={
            200: serializers.ApiKeyBody,
            400: ErrorBody,
            403: ErrorBody,
            404: ErrorBody,
            409: ErrorBody,
        },
    )
    def patch(self, request: Request, key_id: UUID) -> Response:
        """Change a key's name, rights, networks or expiry. Gateways follow within a second."""
        body = serializers.ApiKeyChange(data=request.data)
        body.is_valid(raise_exception=True)
        row = keys.change_api_key(
            organization=self.organization,
            key_id=key_id,
            changes=dict(body.validated_data),
            may_operate=self.may_operate,
            actor=self.actor,
            now=timezone.now(),
        )
        return Response(serializers.ApiKeyBody(row).data)

    @extend_schema(responses={204: None, 403: ErrorBody, 404: ErrorBody})
    def delete(self, request: Request, key_id: UUID) -> Response:
        """Revoke a key now. Its row stays."""
        services.revoke_api_key(
            organization=self.organization,
            key_id=self._row(key_id).pk,
            actor=self.actor,
            now=timezone.now(),
        )
        return Response(status=204)

    def _row(self, key_id: UUID) -> ApiKey:
        rows = ApiKey.objects.of(self.organization).filter(is_internal=False)
        row = rows.select_related("created_by").filter(pk=key_id).first()
        if row is None:
            raise NotFound("No such key.")
        return row


class ApiKeyRotation(OrganizationView):
    capabilities: ClassVar = reading(Capability.VIEW, changing=Capability.MANAGE_KEYS)

    @extend_schema(
        request=serializers.RotateRequest,
        responses={
            201: serializers.NewApiKeyBody,
            400: ErrorBody,
            403: ErrorBody,
            404: ErrorBody,
            409: ErrorBody,
        },
    )
    def post(self, request: Request, key_id: UUID) -> Response:
        """Give a key a new secret, shown here once. The present one works for the overlap."""
        body = serializers.RotateRequest(data=request.data)
        body.is_valid(raise_exception=True)
        issued = keys.rotate_api_key(
            organization=self.organization,
            key_id=key_id,
            overlap=timedelta(seconds=body.validated_data["overlap_seconds"]),
            may_operate=self.may_operate,
            actor=self.actor,
            now=timezone.now(),
        )
        answer = serializers.ApiKeyBody(issued.row).data | {"secret": issued.secret}
        return Response(answer, status=201, headers={"Cache-Control": "no-store"})


class ApiKeyPreviousSecret(OrganizationView):
    capabilities: ClassVar = reading(Capability.VIEW, changing=Capability.MANAGE_KEYS)

    @extend_schema(responses={204: None, 403: ErrorBody, 404: ErrorBody})
    def delete(self, request: Request, key_id: UUID) -> Response:
        """End the secret before the present one, if it still works."""
        keys.end_previous_secret(
            organization=self.organization, key_id=key_id, actor=self.actor, now=timezone.now()
        )
        return Response(status=204)


class MemberView(OrganizationView):
    """Owners are made and removed by owners; other members by those who manage members."""

    capabilities: ClassVar = reading(Capability.VIEW, changing=Capability.MANAGE_MEMBERS)

    def check_owner(self, *roles: str) -> None:
        if Role.OWNER in roles and Capability.MANAGE_OWNERS not in self.granted:
            raise NotAllowed(
                "Only an owner makes or removes owners.",
                field="role",
                remedy="Sign in as an owner of the organization.",
            )


class MemberList(MemberView):
    @extend_schema(
        operation_id="members_list",
        parameters=PAGING,
        responses={200: paginated(serializers.MemberBody)},
    )
    def get(self, request: Request) -> Response:
        """Who belongs to the organization, in which role."""
        rows = Membership.objects.of(self.organization).select_related("user")
        return Pagination.answer(rows.order_by("pk"), serializers.MemberBody, request, self)

    @extend_schema(
        request=serializers.MemberRequest,
        responses={201: serializers.MemberBody, 400: ErrorBody, 403: ErrorBody, 409: ErrorBody},
    )
    def post(self, request: Request) -> Response:
        """Make somebody who has an account a member."""
        body = serializers.MemberRequest(data=request.data)
        body.is_valid(raise_exception=True)
        username, role = body.validated_data["username"], body.validated_data["role"]
        self.check_owner(role)
        person = User.objects.filter(username=username, is_active=True).first()
        if person is None:
            raise InvalidInput(
                f"Nobody is called {username}.",
                field="username",
                remedy="Ask the platform's staff for an account first.",
            )
        if Membership.objects.of(self.organization).filter(user=person).exists():
            raise services.NameTaken(
                f"{username} is a member already.",
                field="username",
                remedy="Change the role with PATCH.",
            )
        membership = services.set_member(
            organization=self.organization,
            user=person,
            role=role,
            actor=self.actor,
            now=timezone.now(),
        )
        return Response(serializers.MemberBody(membership).data, status=201)


class MemberDetail(MemberView):
    @extend_schema(responses={200: serializers.MemberBody, 404: ErrorBody})
    def get(self, request: Request, member_id: int) -> Response:
        """One member."""
        return Response(serializers.MemberBody(self._row(member_id)).data)

    @extend_schema(
        request=serializers.MemberChange,
        responses={
            200: serializers.MemberBody,
            400: ErrorBody,
            403: ErrorBody,
            404: ErrorBody,
            409: ErrorBody,
        },
    )
    def patch(self, request: Request, member_id: int) -> Response:
        """Change a member's role. The last owner stays one."""
        body = serializers.MemberChange(data=request.data)
        body.is_valid(raise_exception=True)
        present, role = self._row(member_id), body.validated_data["role"]
        self.check_owner(present.role, role)
        membership = services.set_member(
            organization=self.organization,
            user=present.user,
            role=role,
            actor=self.actor,
            now=timezone.now(),
        )
        return Response(serializers.MemberBody(membership).data)

    @extend_schema(responses={204: None, 403: ErrorBody, 404: ErrorBody, 409: ErrorBody})
    def delete(self, request: Request, member_id: int) -> Response:
        """End a membership. The last owner stays."""
        present = self._row(member_id)
        self.check_owner(present.role)
        services.remove_member(
            organization=self.organization,
            user=present.user,
            actor=self.actor,
            now=timezone.now(),
        )
        return Response(status=204)

    def _row(self, member_id: int) -> Membership:
        rows = Membership.objects.of(self.organization).select_related("user")
        row = rows.filter(pk=member_id).first()
        if row is None:
            raise NotFound("No such member.")
        return row


class AuditEventList(OrganizationView):
    capabilities: ClassVar = reading(Capability.VIEW_AUDIT)

    @extend_schema(
        operation_id="audit_events_list",
        parameters=[
            OpenApiParameter("action", str, description="Such as deployment.scale."),
            OpenApiParameter("object_id", str),
            *PAGING,
        ],
        responses={200: paginated(serializers.AuditEventBody)},
    )
    def get(self, request: Request) -> Response:
        """What was changed in the organization, newest first."""
        rows = AuditEvent.objects.filter(organization=self.organization)
        for name in ("action", "object_id"):
            if name in request.query_params:
                rows = rows.filter(**{name: request.query_params[name]})
        return Pagination.answer(rows, serializers.AuditEventBody, request, self)
