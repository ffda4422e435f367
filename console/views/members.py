"""Members: who may do what in the organization."""

from django.http import HttpResponse
from django.shortcuts import get_object_or_404
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST

from accounts import services
from accounts.choices import Capability, Role
from accounts.models import Membership, User
from common.errors import DomainError, NotAllowed
from console import forms
from console.pages import ConsoleRequest, add_refusal, console_page, done, refuse, show


@console_page()
def member_list(request: ConsoleRequest) -> HttpResponse:
    may_manage = Capability.MANAGE_MEMBERS in request.granted
    form = forms.MemberForm(request.POST or None, roles=_grantable(request))
    if request.method == "POST" and may_manage and form.is_valid():
        person = form.cleaned_data["person"]
        try:
            _check_may_change(request, person)
            membership = services.set_member(
                organization=request.organization,
                user=person,
                role=form.cleaned_data["role"],
                actor=request.actor,
                now=request.now,
            )
        except DomainError as error:
            add_refusal(form, error)
        else:
            text = _("%(person)s is now %(role)s.") % {
                "person": membership.user,
                "role": membership.get_role_display(),
            }
            return done(request, text, reverse("console:members"))
    rows = Membership.objects.of(request.organization).select_related("user")
    return show(
        request,
        "console/members/list.html",
        {
            "title": _("Members"),
            "lede": _("Who may do what in %(name)s.") % {"name": request.organization.name},
            "members": rows.order_by("user__username"),
            "roles": [(value, label) for value, label in Role.choices],
            "grantable": _grantable(request),
            "form": form,
        },
        status=422 if form.errors else 200,
    )


@require_POST
@console_page(Capability.MANAGE_MEMBERS)
def remove_member(request: ConsoleRequest, user_id: int) -> HttpResponse:
    """POST: end a membership."""
    to = reverse("console:members")
    rows = Membership.objects.of(request.organization).select_related("user")
    membership = get_object_or_404(rows, user_id=user_id)
    if membership.role not in _grantable(request):
        return done(request, _("Only an owner can remove an owner."), to)
    try:
        services.remove_member(
            organization=request.organization,
            user=membership.user,
            actor=request.actor,
            now=request.now,
        )
    except DomainError as error:
        return refuse(request, error, to)
    return done(request, _("%(person)s was removed.") % {"person": membership.user}, to)


def _check_may_change(request: ConsoleRequest, person: User) -> None:
    """Admins leave owners as they are."""
    present = Membership.objects.of(request.organization).filter(user=person).first()
    if present is not None and present.role not in _grantable(request):
        raise NotAllowed(_("Only an owner can change the role of an owner."), field="person")


def _grantable(request: ConsoleRequest) -> list[str]:
    """The roles that this person may give and take."""
    if Capability.MANAGE_OWNERS in request.granted:
        return list(Role.values)
    return [role for role in Role.values if role != Role.OWNER]
