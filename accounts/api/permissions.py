"""What DRF asks before a view runs."""

from typing import Any

from rest_framework import exceptions
from rest_framework.permissions import BasePermission
from rest_framework.request import Request


class HasCapability(BasePermission):
    """Grants what the view's `capabilities` asks for the request's method."""

    def has_permission(self, request: Request, view: Any) -> bool:
        if request.user is None or not request.user.is_authenticated:
            raise exceptions.NotAuthenticated(
                "Send an API key as `Authorization: Bearer sk-af-...`, or sign in."
            )
        wanted = view.capabilities.get(request.method, view.capabilities.get("*"))
        if wanted is None or wanted in view.granted:
            return True
        self.message = f"This needs the capability “{wanted}”: use a key or a member that has it."
        return False
