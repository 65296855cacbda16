"""What sends to the provider. Knows `httpx2`; nothing of what is asked or saved."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import httpx2

_MOST = 16  # clients for which a pool is asked
_TIMEOUT = httpx2.Timeout(1800, connect=30)  # a model may think for long


class Upstream:
    """Connections to the provider that are kept, as many as there are requests at once.

    A pool looks at all its connections at each request, so there are several. The first ones are
    used first: few clients share few connections.
    """

    def __init__(self) -> None:
        self._certificates = httpx2.create_ssl_context()  # read once: they are megabytes
        self._pools, self._users = list[httpx2.AsyncClient](), list[int]()

    @contextlib.contextmanager
    def pool(self) -> Iterator[httpx2.AsyncClient]:
        """Give what sends the requests of one client, while the block lasts."""
        n = next((n for n, users in enumerate(self._users) if users < _MOST), len(self._pools))
        if n == len(self._pools):
            self._pools.append(self._made())
            self._users.append(0)
        self._users[n] += 1
        try:
            yield self._pools[n]
        finally:
            self._users[n] -= 1

    def _made(self) -> httpx2.AsyncClient:
        """Make a pool. A redirect is the client's to follow: its credentials go nowhere else."""
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=_MOST)
        return httpx2.AsyncClient(
            limits=limits, timeout=_TIMEOUT, verify=self._certificates, follow_redirects=False
        )

    async def aclose(self) -> None:
        """Close all connections."""
        for pool in self._pools:
            await pool.aclose()
