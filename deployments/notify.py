"""Telling gateways that the routing table is not what it was."""

from common import notices

ROUTES = "routes"  # the channel; its messages carry nothing, read the table again


def routes_changed() -> None:
    """After commit: a route, one of its targets or the readiness of a replica changed."""
    notices.publish(ROUTES)
