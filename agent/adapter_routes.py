"""Adapters on a node's engines: the admin routes that vLLM and our own engine share."""

from typing import Any

import httpx

from engines.adapter_routes import LOAD, UNLOAD
from engines.host import AdapterRefused, EngineSilent, ServeSpec

LIST_SECONDS = 5.0
LOAD_SECONDS = 60.0  # a large adapter from a cold disk, or behind those who wait for a place


class AdapterRoutes:
    """Speaks to one engine, found by its spec."""

    def __init__(self, http: httpx.Client, spec: ServeSpec) -> None:
        self._http = http
        self._base = f"http://{spec.host}:{spec.port}"
        self._headers = {"Authorization": f"Bearer {spec.token}"}

    def list(self) -> dict[str, str]:
        """Adapter -> folder. Raises EngineSilent."""
        answer = self._ask("GET", "/v1/models", None, LIST_SECONDS)
        if not answer.is_success:
            raise EngineSilent(f"{self._base} lists no models: {answer.status_code}")
        models = answer.json()["data"]
        return {each["id"]: str(each.get("root")) for each in models if each.get("parent")}

    def load(self, adapter_name: str, folder: str) -> None:
        """Raises AdapterRefused, EngineSilent."""
        body = {"lora_name": adapter_name, "lora_path": folder, "load_inplace": True}
        answer = self._ask("POST", LOAD, body, LOAD_SECONDS)
        if answer.status_code in (400, 404):
            raise AdapterRefused(_message(answer))
        if not answer.is_success:
            raise EngineSilent(f"{self._base}: {_message(answer)}")

    def unload(self, adapter_name: str) -> None:
        """Raises EngineSilent."""
        answer = self._ask("POST", UNLOAD, {"lora_name": adapter_name}, LIST_SECONDS)
        if not answer.is_success and answer.status_code != 404:
            raise EngineSilent(f"{self._base}: {_message(answer)}")

    def _ask(
        self, method: str, path: str, body: dict[str, Any] | None, seconds: float
    ) -> httpx.Response:
        try:
            return self._http.request(
                method, self._base + path, json=body, headers=self._headers, timeout=seconds
            )
        except httpx.HTTPError as error:
            raise EngineSilent(f"{self._base} does not answer: {error}") from None


def _message(answer: httpx.Response) -> str:
    """What the engine says of itself, in any of the shapes that engines have for it."""
    try:
        body = answer.json()
    except ValueError:
        return answer.text[:1000]
    error = body.get("error", body) if isinstance(body, dict) else body
    said = error.get("message") if isinstance(error, dict) else error
    return str(said or answer.text)[:1000]
