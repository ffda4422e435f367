"""Which hosts outside the platform may be spoken to: those that the operator has named.

A word is a host name (`api.example.com`), a name with all below it (`*.example.com`), an address or
a network (`10.20.0.0/16`), or `*` for every public host. A private, loopback or link-local address
is reached only where a word names that very host or a network that it lies in: whoever may write a
URL here must not reach the inside of the company by it.
"""

import ipaddress
from collections.abc import Iterable
from typing import NamedTuple, Self
from urllib.parse import urlsplit

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class OutsideHosts:
    """Raises ValueError for a word that is neither a name nor a network."""

    def __init__(self, words: Iterable[str]) -> None:
        self._names: set[str] = set()
        self._suffixes: list[str] = []
        self._networks: list[Network] = []
        self._any = False
        for word in words:
            self._add(word.strip().lower())

    @classmethod
    def of(cls, text: str) -> Self:
        """From words with commas between them."""
        return cls(word for word in text.split(",") if word.strip())

    def knows(self, host: str) -> bool:
        """Whether the host is one that may be spoken to, as far as its name tells."""
        host = host.lower()
        address = _address(host)
        if address is not None:
            return self.allows(host, host)
        return self._any or host in self._names or any(host.endswith(s) for s in self._suffixes)

    def allows(self, host: str, ip: str) -> bool:
        """Whether a connection to `host` may go to this address of it."""
        host, address = host.lower(), _address(ip)
        if address is None:
            return False
        in_network = any(address in network for network in self._networks)
        if host in self._names or in_network:
            return True
        is_named = self._any or any(host.endswith(suffix) for suffix in self._suffixes)
        return is_named and address.is_global

    def _add(self, word: str) -> None:
        if word == "*":
            self._any = True
        elif word.startswith("*."):
            self._suffixes.append(word[1:])
        elif "/" in word or _address(word) is not None:
            self._networks.append(ipaddress.ip_network(word, strict=False))
        elif all(part and part.replace("-", "").isalnum() for part in word.split(".")):
            self._names.add(word)
        else:
            raise ValueError(f"{word!r} is no host and no network")


class BaseUrl(NamedTuple):
    """Where an OpenAI-compatible service is; `path` is what stands before its endpoints."""

    host: str
    port: int
    path: str
    is_tls: bool


def read_base_url(text: str) -> BaseUrl:
    """Raises ValueError that says what is wrong."""
    if not text.isascii() or any(each.isspace() or not each.isprintable() for each in text):
        raise ValueError("it has characters that no URL has")
    parts = urlsplit(text)
    if parts.scheme not in ("https", "http") or not parts.hostname:
        raise ValueError("it must begin with https:// or http:// and name a host")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("it must not have a user, a query or a fragment")
    is_tls = parts.scheme == "https"
    port = parts.port or (443 if is_tls else 80)  # raises ValueError for one that is none
    return BaseUrl(parts.hostname, port, parts.path.rstrip("/"), is_tls)


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(text.strip("[]").partition("%")[0])
    except ValueError:
        return None
    mapped = getattr(address, "ipv4_mapped", None)
    return mapped or address
