"""Members that change at the same time, on real connections."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import connection

from accounts import services
from accounts.choices import Role
from accounts.models import Membership
from accounts.tests.make import NOW, make_member, make_organization, make_user

pytestmark = pytest.mark.django_db(transaction=True)


def together(work: Callable[[int], object], count: int) -> list[object]:
    """Runs `work(n)` in as many threads at once, each with a connection of its own."""
    start = threading.Barrier(count)

    def one(number: int) -> object:
        try:
            start.wait()
            return work(number)
        except services.LastOwner as refusal:
            return refusal
        finally:
            connection.close()

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))


def test_of_owners_that_all_leave_at_once_one_stays() -> None:
    organization = make_organization()
    people = [make_member(organization, f"owner-{n}", Role.OWNER) for n in range(8)]

    def leave(n: int) -> None:
        if n % 2:
            services.remove_member(organization=organization, user=people[n], now=NOW)
        else:
            services.set_member(
                organization=organization, user=people[n], role=Role.VIEWER, now=NOW
            )

    answers = together(leave, 8)
    assert sum(isinstance(answer, services.LastOwner) for answer in answers) == 1
    assert Membership.objects.filter(role=Role.OWNER).count() == 1


def test_the_same_person_made_a_member_several_times_at_once_is_one() -> None:
    organization, person = make_organization(), make_user("bob")

    def add(_n: int) -> Membership:
        return services.set_member(
            organization=organization, user=person, role=Role.VIEWER, now=NOW
        )

    together(add, 8)
    assert Membership.objects.filter(user=person).count() == 1
