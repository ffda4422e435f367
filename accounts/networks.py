"""Networks from which a key may be used."""

import functools
import ipaddress
from collections.abc import Iterable

from common.errors import InvalidInput

MOST_NETWORKS = 100

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def parse_networks(texts: Iterable[str], *, field: str = "allowed_networks") -> list[str]:
    """Addresses and networks as their canonical text (CIDR), each once. Raises InvalidInput."""
    found: list[str] = []
    for text in texts:
        try:
            network = str(ipaddress.ip_network(text.strip()))
        except ValueError as error:
            raise InvalidInput(
                f"{text.strip()!r} is no network: {error}.",
                field=field,
                remedy="Write addresses or networks such as 203.0.113.7, 10.0.0.0/8 or 2001:db8::/32.",
            ) from error
        if network not in found:
            found.append(network)
    if len(found) > MOST_NETWORKS:
        raise InvalidInput(
            f"{len(found)} networks are more than {MOST_NETWORKS}.",
            field=field,
            remedy="Join neighbours into larger networks.",
        )
    return found


def is_within(address: str, networks: Iterable[str]) -> bool:
    """Whether the address lies in one of the networks. No address, or no networks: it does not."""
    try:
        known = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(known, ipaddress.IPv6Address) and known.ipv4_mapped is not None:
        known = known.ipv4_mapped  # what a socket that speaks both calls an IPv4 client
    return any(known in _network(text) for text in networks)


@functools.lru_cache(maxsize=10_000)
def _network(text: str) -> Network:
    return ipaddress.ip_network(text)
