"""Liveness and readiness, for load balancers and people."""

import logging

import redis
from django.conf import settings
from django.db import DatabaseError, connection
from django.http import HttpRequest, JsonResponse

logger = logging.getLogger(__name__)


def live(request: HttpRequest) -> JsonResponse:
    """The process answers."""
    return JsonResponse({"status": "ok"})


def ready(request: HttpRequest) -> JsonResponse:
    """200 if the database and Redis answer, else 503 with what does not; why is in the log."""
    problems = {}
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except DatabaseError as error:
        logger.warning("not ready, database: %s", str(error).strip())
        problems["database"] = "does not answer"
    client = redis.Redis.from_url(settings.REDIS_URL, socket_timeout=2)
    try:
        client.ping()
    except redis.RedisError as error:
        logger.warning("not ready, redis: %s", error)
        problems["redis"] = "does not answer"
    finally:
        client.close()
    status = "unready" if problems else "ready"
    return JsonResponse({"status": status, "problems": problems}, status=503 if problems else 200)
