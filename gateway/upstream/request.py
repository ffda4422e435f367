"""Requests as the gateway writes them: nothing of a client's own head is in them."""

from functools import lru_cache

from gateway.upstream.settings import Address

TLS_PORT = 443


def build_request(*, path: str, host: Address, token: str, request_id: str, body: bytes) -> bytes:
    """A POST of JSON with the replica's bearer token, as bytes on the wire. The port is named
    unless it is 443: an outside server may know itself by its bare name alone."""
    rest = b"content-length: %d\r\nx-request-id: %b\r\n\r\n" % (len(body), request_id.encode())
    return b"".join((_head(path, host, token), rest, body))


@lru_cache(maxsize=4096)
def _head(path: str, host: Address, token: str) -> bytes:
    """What all requests to one path of one engine begin with."""
    name = host[0] if host[1] == TLS_PORT else f"{host[0]}:{host[1]}"
    return (
        f"POST {path} HTTP/1.1\r\nhost: {name}\r\nauthorization: Bearer {token}\r\n"
        "content-type: application/json\r\naccept: */*\r\n"
    ).encode()
