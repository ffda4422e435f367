"""A small client of the platform's REST API, as a tenant would write one."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

POLL_SECONDS = 0.5


class StepFailed(Exception):
    """A step of the demo did not end as it must; the message says what was seen."""


class Rest:
    """`/api/v1/` with one organization's key."""

    def __init__(self, *, base_url: str, key: str) -> None:
        self._http = httpx.Client(
            base_url=f"{base_url}/api/v1/",
            headers={"Authorization": f"Bearer {key}"},
            timeout=60,
        )

    def get(self, path: str, **query: Any) -> Any:
        return self._answer(self._http.get(path, params=query))

    def post(self, path: str, body: dict[str, Any]) -> Any:
        return self._answer(self._http.post(path, json=body))

    def put(self, path: str, body: dict[str, Any]) -> Any:
        return self._answer(self._http.put(path, json=body))

    def upload(self, path: str, files: dict[str, Path], fields: dict[str, str]) -> Any:
        """One multipart request with a file a split."""
        parts = {name: (file.name, file.read_bytes()) for name, file in files.items()}
        return self._answer(self._http.post(path, files=parts, data=fields, timeout=300))

    def rows(self, path: str, **query: Any) -> list[dict[str, Any]]:
        """All rows of a list, page after page."""
        rows: list[dict[str, Any]] = []
        while True:
            page = self.get(path, limit=500, offset=len(rows), **query)
            rows += page["results"]
            if not page["next"]:
                return rows

    def named(self, path: str, name: str) -> dict[str, Any] | None:
        """The list's row of that name, newest first."""
        return next((row for row in self.rows(path) if row["name"] == name), None)

    def wait(
        self,
        path: str,
        *,
        until: set[str],
        never: set[str],
        seconds: float,
        show: Callable[[dict[str, Any]], None] = lambda row: None,
        holds: Callable[[dict[str, Any]], bool] = lambda row: True,
    ) -> dict[str, Any]:
        """Look at `path` until its status is among `until` and `holds` of it. Raises StepFailed for one among
        `never`, or when it takes longer than `seconds`."""
        deadline = time.monotonic() + seconds
        while True:
            row: dict[str, Any] = self.get(path)
            show(row)
            if row["status"] in until and holds(row):
                return row
            said = f"{row['status']} ({row.get('status_reason')}): {row.get('message')}"
            if row["status"] in never:
                raise StepFailed(f"{path} is {said}")
            if time.monotonic() > deadline:
                raise StepFailed(f"{path} is still {said} after {seconds:.0f} s")
            time.sleep(POLL_SECONDS)

    def _answer(self, response: httpx.Response) -> Any:
        if response.is_error:
            raise StepFailed(
                f"{response.request.method} {response.request.url.path} answered "
                f"{response.status_code}: {response.text[:600]}"
            )
        return response.json() if response.content else None
