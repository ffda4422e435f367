"""Connections to providers outside: only to hosts that the operator has named.

What a name leads to is looked at when the connection is made, and the connection goes to that very
address: a name that is given another address after it was checked leads nowhere else.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable

from common.outside import OutsideHosts
from gateway.upstream.connection import Connection
from gateway.upstream.errors import CannotConnect
from gateway.upstream.pool import Pool
from gateway.upstream.settings import Address, Timeouts


class OutsidePool(Pool):
    """A pool whose connections are checked against `hosts`, one after the other of the addresses
    that a name has. With `tls`, certificates are checked for that name."""

    def __init__(
        self,
        hosts: OutsideHosts,
        timeouts: Timeouts | None = None,
        *,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        super().__init__(timeouts or Timeouts(connect=5.0), tls=tls)
        self._hosts = hosts

    async def _dial(self, address: Address, make: Callable[[], Connection]) -> Connection:
        loop = asyncio.get_running_loop()
        host, port = address
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        allowed = [at[0] for *_, at in found if self._hosts.allows(host, str(at[0]))]
        if not allowed:
            raise CannotConnect(f"{host}: the addresses of this host are not allowed")
        error: OSError | None = None
        for ip in dict.fromkeys(allowed):
            try:
                _, connection = await loop.create_connection(
                    make, str(ip), port, ssl=self.tls, server_hostname=host if self.tls else None
                )
            except OSError as failed:
                error = failed
            else:
                return connection
        raise error or OSError(f"{host} has no address")
