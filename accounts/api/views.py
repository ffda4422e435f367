"""The base of every REST view: an organization, an actor, and what they may do."""

from typing import ClassVar, cast

from rest_framework import exceptions
from rest_framework.request import Request
from rest_framework.views import APIView

from accounts import selectors
from accounts.audit import Actor
from accounts.choices import Capability
from accounts.models import ApiKey, Organization, User
from common.errors import InvalidInput

CHOSEN = "organization"  # the session's key for the organization chosen in the console


class OrganizationView(APIView):
    """A view on one organization's rows.

    `self.organization` is the key's own; with a session it is the one named by the header
    `X-Organization`, else the one chosen in the console, else the first membership's.
    """

    capabilities: ClassVar[dict[str, str]] = {
        "GET": Capability.VIEW,
        "HEAD": Capability.VIEW,
        "*": Capability.DEVELOP,
        "OPTIONS": Capability.VIEW,
    }
    organization: Organization
    actor: Actor
    granted: frozenset[str]

    @property
    def may_operate(self) -> bool:
        """Whether the caller runs the place."""
        return Capability.OPERATE in self.granted

    def initial(self, request: Request, *args: object, **kwargs: object) -> None:
        super().initial(request, *args, **kwargs)
        for name, value in request.query_params.items():
            if "\0" in value:  # no text of a row can
                raise InvalidInput("It holds a NUL character.", field=name, remedy="Leave it out.")

    def check_permissions(self, request: Request) -> None:
        self.granted = frozenset()
        if request.user is not None and request.user.is_authenticated:
            self._resolve(request)
        super().check_permissions(request)

    def _resolve(self, request: Request) -> None:
        address = request.META.get("REMOTE_ADDR", "")
        if isinstance(request.auth, ApiKey):
            self.organization = request.auth.organization
            self.granted = selectors.get_key_capabilities(request.auth)
            self.actor = Actor("api_key", f"{request.auth.name} ({request.auth.prefix})", address)
            return
        person = cast(User, request.user)
        rows = selectors.list_organizations(person)
        slug = request.headers.get("X-Organization") or request.session.get(CHOSEN)
        found = rows.filter(slug=slug).first() if slug else rows.order_by("created_at").first()
        if found is None:
            raise exceptions.NotFound("You are a member of no such organization.")
        self.organization = found
        self.granted = selectors.get_capabilities(person, found)
        self.actor = Actor("user", person.get_username(), address)


class OperatorView(OrganizationView):
    """A view for those who run the place: staff, or a key with the scope `operate`."""

    capabilities: ClassVar[dict[str, str]] = {"*": Capability.OPERATE}
