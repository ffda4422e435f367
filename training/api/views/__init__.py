"""REST over training, a module a noun."""

from drf_spectacular.utils import OpenApiParameter

PAGING = [
    OpenApiParameter("limit", int, description="Rows an answer, at most 500."),
    OpenApiParameter("offset", int),
]
