"""A server on loopback in a thread of the test: Starlette under uvicorn."""

from __future__ import annotations

import socket
import threading
from typing import Any, Self

import uvicorn
from starlette.applications import Starlette
from starlette.routing import Route


class Loopback:
    """Serve some routes while the block lasts.

    Attributes:
        origin: the address.
        gate: what requests wait for, if they are to wait; open once the block ends.
    """

    def __init__(self, routes: list[Route], **options: Any) -> None:
        self.gate = threading.Event()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self._socket.bind(("127.0.0.1", 0))  # of TCP by name, or each answer waits 40 ms
        self._socket.listen(512)
        self.origin = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        config = uvicorn.Config(
            Starlette(routes=routes), ws="none", lifespan="off", log_level="critical",
            access_log=False, timeout_graceful_shutdown=1, **options,
        )  # fmt: skip
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.gate.set()
        self._server.should_exit = True
        self._thread.join()
        self._socket.close()
