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
    """Return the user whose the other end of a local connection is; None if that is not known.

    One that is closed already is nobody's: the system would call it root's.
    """
    try:
        return _uid_asked(peer, own)
    except OSError:  # it is not there, or the system only lists its connections
        return _uid_listed(peer, own)


def _uid_asked(peer: Address, own: Address) -> int | None:
    """Ask the kernel for this connection alone: to read its list takes it milliseconds."""
    family, (host, port), (own_host, own_port) = _family(peer), peer, own
    ends = struct.pack("!HH", port, own_port) + b"".join(
        socket.inet_pton(family, each).ljust(16, b"\0") for each in (host, own_host)
    )
    wanted = struct.pack("=BBxxI", family, socket.IPPROTO_TCP, 1 << _ESTABLISHED)
    body = wanted + ends + struct.pack("=III", 0, *_ANY_COOKIE)
    head = struct.pack("=IHHII", 16 + len(body), _BY_FAMILY, _REQUEST, 0, 0)
    with socket.socket(_NETLINK, socket.SOCK_RAW, _SOCK_DIAG) as asking:
        asking.settimeout(1)
        asking.send(head + body)
        answer = asking.recv(4096)
    if struct.unpack_from("=H", answer, 4)[0] != _BY_FAMILY:
        raise OSError(-struct.unpack_from("=i", answer, 16)[0], "no such connection, or no answer")
    _, state, *_, uid = _FOUND.unpack_from(answer, 16)
    return uid if state == _ESTABLISHED else None


# of the kernel's <linux/netlink.h>, <linux/sock_diag.h>, <linux/inet_diag.h>
_NETLINK, _SOCK_DIAG, _BY_FAMILY, _REQUEST = 16, 4, 20, 1
_FOUND = struct.Struct("=BB2x48x12xI")  # family, state, … the two ends, … queues, user
_ESTABLISHED = 1
_ANY_COOKIE = 0xFFFFFFFF, 0xFFFFFFFF


def _uid_listed(peer: Address, own: Address) -> int | None:
    ends = _as_listed(peer), _as_listed(own)
    for table in system.CONNECTIONS:
        for line in (system.table(table) or [])[1:]:
            fields = line.split()
            if fields[1].endswith(ends[0]) and fields[2].endswith(ends[1]):
                return int(fields[7]) if int(fields[3], 16) == _ESTABLISHED else None
    return None


def _as_listed(address: Address) -> str:
    host, port = address
    packed = socket.inet_pton(_family(address), host)
    words = struct.unpack(f"={len(packed) // 4}I", packed)
    return "".join(f"{word:08X}" for word in words) + f":{port:04X}"


def _family(address: Address) -> int:
    return socket.AF_INET6 if ":" in address[0] else socket.AF_INET


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
