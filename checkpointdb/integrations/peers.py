"""Who may ask the proxy. Knows sockets and headers; nothing of what is asked."""

from __future__ import annotations

import hmac
import os
import socket
import struct
from collections.abc import Mapping
from urllib.parse import urlsplit

from .. import system

TOKEN = "x-checkpointdb-token"  # noqa: S105 - the header's name
_LOCAL = ("127.0.0.1", "localhost", "::1")

Address = tuple[str, int]


def is_loopback(host: str) -> bool:
    """Tell whether only this machine reaches an address."""
    return host in _LOCAL


def knows_peers() -> bool:
    """Tell whether this system says whose the other end of a connection is."""
    return os.path.exists(system.CONNECTIONS[0])


def uid_of(peer: Address, own: Address) -> int | None:
    """Return the user whose the other end of a local connection is; None if that is not known."""
    for table in system.CONNECTIONS:
        for line in (system.table(table) or [])[1:]:
            fields = line.split()
            if fields[1].endswith(_as_listed(peer)) and fields[2].endswith(_as_listed(own)):
                return int(fields[7])
    return None


def _as_listed(address: Address) -> str:
    host, port = address
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    packed = socket.inet_pton(family, host)
    words = struct.unpack(f"={len(packed) // 4}I", packed)
    return "".join(f"{word:08X}" for word in words) + f":{port:04X}"


class Door:
    """Let in who shows the token; without one, this user's own programs, and no web page.

    A saved answer was paid by one user, and every user of a machine reaches its loopback.

    Args:
        token: that clients are to show; None to go by the user.
        hosts: names by which the proxy may be called: a web page knows it by another one.
    """

    def __init__(self, token: str | None, hosts: tuple[str, ...] = ()) -> None:
        self._token, self._hosts = token, {*_LOCAL, *hosts}

    def why_not(self, uid: int | None, headers: Mapping[str, str], shown: str | None) -> str | None:
        """Say why a request is refused; None if it is not.

        Args:
            uid: of the other end.
            headers: of the request.
            shown: the token in its path.
        """
        if self._token is not None:
            given = headers.get(TOKEN) or shown or ""
            if hmac.compare_digest(given.encode(), self._token.encode()):
                return None
            return f"show the proxy's token: the header {TOKEN}, or /token/TOKEN before the path"
        if uid != os.getuid():
            return "this proxy is another user's: start your own, or have it started with --token"
        if urlsplit(f"//{headers.get('host', '')}").hostname not in self._hosts:
            return "call this proxy by 127.0.0.1 or localhost, or have it started with --token"
        if "origin" in headers:
            return "web pages are not let in, unless the proxy was started with --token"
        return None
