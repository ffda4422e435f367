"""REST over pools, nodes, accelerators, allocations and the price book."""

from typing import Any, ClassVar
from uuid import UUID

from django.db.models import Count, Q, QuerySet
from django.utils import timezone
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.api.views import OperatorView, OrganizationView
from accounts.choices import Capability
from accounts.models import Organization
from chips import selectors, services
from chips.api import serializers
from chips.choices import AcceleratorStatus
from chips.models import (
    Accelerator,
    AcceleratorType,
    Allocation,
    FreeAllowance,
    Node,
    Pool,
    PoolGrant,
    PriceEntry,
)
from common.api import PAGING, ErrorBody, Pagination, paginated
from common.errors import NotFound

READ_BY_ALL: dict[str, str] = {
    "GET": Capability.VIEW,
    "HEAD": Capability.VIEW,
    "OPTIONS": Capability.VIEW,
    "*": Capability.OPERATE,
}


class AcceleratorTypeList(OrganizationView):
    @extend_schema(
        operation_id="accelerator_types_list",
        parameters=PAGING,
        responses={200: paginated(serializers.AcceleratorTypeBody)},
    )
    def get(self, request: Request) -> Response:
        """Data sheets of the accelerators that the platform knows."""
        rows = AcceleratorType.objects.all()
        return Pagination.answer(rows, serializers.AcceleratorTypeBody, request, self)


class PoolView(OrganizationView):
    """Everybody reads the pools they may use, operators read and change all."""

    capabilities: ClassVar = READ_BY_ALL

    def rows(self) -> QuerySet[Pool]:
        return Pool.objects.all() if self.may_operate else selectors.list_pools(self.organization)

    def row(self, pool_id: UUID) -> Pool:
        found = self.rows().filter(pk=pool_id).first()
        if found is None:
            raise NotFound("No such pool.")
        return found

    def get_serializer_context(self) -> dict[str, Any]:
        return {"use": {use.pool_name: use for use in selectors.list_pool_use()}}

    def shaped(self, pool: Pool) -> Any:
        return serializers.PoolBody(pool, context=self.get_serializer_context()).data


class PoolList(PoolView):
    @extend_schema(
        operation_id="pools_list",
        parameters=PAGING,
        responses={200: paginated(serializers.PoolBody)},
    )
    def get(self, request: Request) -> Response:
        """Pools that the caller may use, and how full they are."""
        pages = Pagination()
        page = pages.paginate_queryset(self.rows(), request, view=self)
        context = self.get_serializer_context()
        body = serializers.PoolBody(page, many=True, context=context)
        return pages.get_paginated_response(body.data)

    @extend_schema(
        request=serializers.PoolRequest,
        responses={201: serializers.PoolBody, 400: ErrorBody, 403: ErrorBody, 409: ErrorBody},
    )
    def post(self, request: Request) -> Response:
        """Make a pool. Agents started with its name join it."""
        body = serializers.PoolRequest(data=request.data)
        body.is_valid(raise_exception=True)
        pool = services.create_pool(actor=self.actor, now=timezone.now(), **body.validated_data)
        return Response(self.shaped(pool), status=201)


class PoolDetail(PoolView):
    @extend_schema(responses={200: serializers.PoolBody, 404: ErrorBody})
    def get(self, request: Request, pool_id: UUID) -> Response:
        """One pool."""
        return Response(self.shaped(self.row(pool_id)))

    @extend_schema(
        request=serializers.PoolChange,
        responses={200: serializers.PoolBody, 400: ErrorBody, 403: ErrorBody, 404: ErrorBody},
    )
    def patch(self, request: Request, pool_id: UUID) -> Response:
        """Change what is given. Closing a pool ends nothing that runs there."""
        body = serializers.PoolChange(data=request.data)
        body.is_valid(raise_exception=True)
        pool = services.update_pool(
            pool_id=pool_id, actor=self.actor, now=timezone.now(), **body.validated_data
        )
        return Response(self.shaped(pool))


class PoolGrantList(OperatorView):
    @extend_schema(
        operation_id="pool_grants_list",
        parameters=PAGING,
        responses={200: paginated(serializers.PoolGrantBody), 403: ErrorBody},
    )
    def get(self, request: Request, pool_id: UUID) -> Response:
        """Who may use a pool that is not open to all."""
        rows = PoolGrant.objects.filter(pool=pool_id).select_related("pool", "organization")
        return Pagination.answer(rows, serializers.PoolGrantBody, request, self)


class PoolGrantDetail(OperatorView):
    @extend_schema(
        request=None,
        responses={200: serializers.PoolGrantBody, 403: ErrorBody, 404: ErrorBody},
    )
    def put(self, request: Request, pool_id: UUID, organization: str) -> Response:
        """Let an organization use the pool."""
        pool, tenant = _pool_and_organization(pool_id, organization)
        grant = services.grant_pool(
            pool=pool, organization=tenant, actor=self.actor, now=timezone.now()
        )
        return Response(serializers.PoolGrantBody(grant).data)

    @extend_schema(responses={204: None, 403: ErrorBody, 404: ErrorBody})
    def delete(self, request: Request, pool_id: UUID, organization: str) -> Response:
        """Place nothing more of the organization in the pool; what runs there goes on."""
        pool, tenant = _pool_and_organization(pool_id, organization)
        services.revoke_pool_grant(
            pool=pool, organization=tenant, actor=self.actor, now=timezone.now()
        )
        return Response(status=204)


class NodeView(OperatorView):
    def rows(self) -> QuerySet[Node]:
        present = ~Q(accelerators__status=AcceleratorStatus.GONE)
        counted = Count("accelerators", filter=present)
        return Node.objects.select_related("pool").annotate(accelerator_count=counted)

    def shaped(self, node_id: UUID) -> Any:
        row = self.rows().filter(pk=node_id).first()
        if row is None:
            raise NotFound("No such node.")
        return serializers.NodeBody(row).data


class NodeList(NodeView):
    @extend_schema(
        operation_id="nodes_list",
        parameters=[OpenApiParameter("pool", str), OpenApiParameter("status", str), *PAGING],
        responses={200: paginated(serializers.NodeBody), 403: ErrorBody},
    )
    def get(self, request: Request) -> Response:
        """Every node, with its status and what its agent told."""
        wanted = _given(request, pool="pool__name", status="status")
        return Pagination.answer(self.rows().filter(**wanted), serializers.NodeBody, request, self)


class NodeDetail(NodeView):
    @extend_schema(responses={200: serializers.NodeBody, 403: ErrorBody, 404: ErrorBody})
    def get(self, request: Request, node_id: UUID) -> Response:
        """One node."""
        return Response(self.shaped(node_id))


class NodeCordon(NodeView):
    @extend_schema(
        request=serializers.CordonRequest,
        responses={200: serializers.NodeBody, 403: ErrorBody, 404: ErrorBody},
    )
    def post(self, request: Request, node_id: UUID) -> Response:
        """Place nothing new on the node; what runs there goes on."""
        body = serializers.CordonRequest(data=request.data)
        body.is_valid(raise_exception=True)
        services.cordon_node(
            node_id=node_id, actor=self.actor, now=timezone.now(), **body.validated_data
        )
        return Response(self.shaped(node_id))


class NodeUncordon(NodeView):
    @extend_schema(
        request=None, responses={200: serializers.NodeBody, 403: ErrorBody, 404: ErrorBody}
    )
    def post(self, request: Request, node_id: UUID) -> Response:
        """Place on the node again."""
        services.uncordon_node(node_id=node_id, actor=self.actor, now=timezone.now())
        return Response(self.shaped(node_id))


class AcceleratorList(OperatorView):
    @extend_schema(
        operation_id="accelerators_list",
        parameters=[
            OpenApiParameter("pool", str),
            OpenApiParameter("node", str, description="Its name."),
            OpenApiParameter("status", str),
            *PAGING,
        ],
        responses={200: paginated(serializers.AcceleratorBody), 403: ErrorBody},
    )
    def get(self, request: Request) -> Response:
        """Every accelerator, gone ones too, and how many of its slots are held."""
        held = Count("allocated_slots", filter=Q(allocated_slots__released_at__isnull=True))
        rows = Accelerator.objects.select_related("node__pool", "type").annotate(slots_held=held)
        wanted = _given(request, pool="node__pool__name", node="node__name", status="status")
        rows = rows.filter(**wanted).order_by("node__name", "type__slug", "index")
        return Pagination.answer(rows, serializers.AcceleratorBody, request, self)


class AllocationList(OrganizationView):
    @extend_schema(
        operation_id="allocations_list",
        parameters=[
            OpenApiParameter("live", bool, description="true: only what is held now."),
            OpenApiParameter("all", bool, description="true, for operators: of everybody."),
            *PAGING,
        ],
        responses={200: paginated(serializers.AllocationBody)},
    )
    def get(self, request: Request) -> Response:
        """Accelerators that the organization holds or held, newest first."""
        rows = Allocation.objects.select_related("organization")
        if not (self.may_operate and request.query_params.get("all") == "true"):
            rows = rows.of(self.organization)
        if request.query_params.get("live") == "true":
            rows = rows.filter(released_at__isnull=True)
        return Pagination.answer(rows, serializers.AllocationBody, request, self)


class PriceList(OrganizationView):
    capabilities: ClassVar = READ_BY_ALL

    @extend_schema(
        operation_id="prices_list",
        parameters=PAGING,
        responses={200: paginated(serializers.PriceBody)},
    )
    def get(self, request: Request) -> Response:
        """The price book: general prices and the organization's own; all of it for operators."""
        rows = PriceEntry.objects.select_related("accelerator_type", "pool", "organization")
        if not self.may_operate:
            general = Q(organization__isnull=True) | Q(organization=self.organization)
            usable = Q(pool__isnull=True) | Q(pool__in=selectors.list_pools(self.organization))
            rows = rows.filter(general, usable)
        return Pagination.answer(rows, serializers.PriceBody, request, self)

    @extend_schema(
        request=serializers.PriceRequest,
        responses={201: serializers.PriceBody, 400: ErrorBody, 403: ErrorBody, 409: ErrorBody},
    )
    def post(self, request: Request) -> Response:
        """Set a price. The one before it, for the same item and scope, ends where it begins."""
        body = serializers.PriceRequest(data=request.data)
        body.is_valid(raise_exception=True)
        now = timezone.now()
        entry = services.set_price(
            actor=self.actor, now=now, **({"valid_from": now} | body.validated_data)
        )
        return Response(serializers.PriceBody(entry).data, status=201)


class AllowanceList(OrganizationView):
    capabilities: ClassVar = READ_BY_ALL

    @extend_schema(
        operation_id="allowances_list",
        parameters=PAGING,
        responses={200: paginated(serializers.AllowanceBody)},
    )
    def get(self, request: Request) -> Response:
        """What is free each month, for all and for the organization; all of it for operators."""
        rows = FreeAllowance.objects.select_related("organization")
        if not self.may_operate:
            rows = rows.filter(Q(organization=None) | Q(organization=self.organization))
        return Pagination.answer(rows, serializers.AllowanceBody, request, self)

    @extend_schema(
        request=serializers.AllowanceRequest,
        responses={201: serializers.AllowanceBody, 400: ErrorBody, 403: ErrorBody},
    )
    def post(self, request: Request) -> Response:
        """Make so much free each month. The entry before it, for the same, ends where it begins."""
        body = serializers.AllowanceRequest(data=request.data)
        body.is_valid(raise_exception=True)
        now = timezone.now()
        entry = services.set_allowance(
            actor=self.actor, now=now, **({"valid_from": now} | body.validated_data)
        )
        return Response(serializers.AllowanceBody(entry).data, status=201)


def _given(request: Request, **fields: str) -> dict[str, str]:
    """Filters for the query parameters that were sent: parameter name to field lookup."""
    sent = request.query_params
    return {lookup: sent[name] for name, lookup in fields.items() if name in sent}


def _pool_and_organization(pool_id: UUID, slug: str) -> tuple[Pool, Organization]:
    pool = Pool.objects.filter(pk=pool_id).first()
    if pool is None:
        raise NotFound("No such pool.")
    organization = Organization.objects.filter(slug=slug).first()
    if organization is None:
        raise NotFound(f"There is no organization {slug}.")
    return pool, organization
