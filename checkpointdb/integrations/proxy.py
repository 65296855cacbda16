"""A proxy in front of one provider whose paid answers are saved. Knows HTTP; no recipe, no key."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

import httpx2
import msgspec
import uvicorn
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from .answers import passed_on
from .httpx import Checkpointed, refusal
from .peers import TOKEN, Door, uid_of
from .recipes import Asked
from .samples import Samples, Ticket
from .upstream import Upstream

_TOKEN = re.compile(r"/token/([^/]+)(/.*)")
# an attempt is what comes before the path's v1, v1beta
_RUN = re.compile(r"/run/([^/]+)(?:/(?!v\d+[a-z0-9]*/)([^/]+))?(/.*)")
_NOBODY = Response(status_code=499)  # whom it is for has left


class Relay:
    """The application: ask the provider what is not saved, and pass everything on.

    Args:
        to: the provider's address; its path, if it has one, comes before that of each request.
        transport: saves.
        upstream: sends.
        door: says who may ask.
        most: bytes that the body of a request may have whose answer is saved.
    """

    def __init__(
        self, to: str, transport: Checkpointed, upstream: Upstream, door: Door, most: int
    ) -> None:
        self._to, self._base = to.rstrip("/"), urlsplit(to).path.rstrip("/")
        self._transport, self._door, self._most = transport, door, most
        self._upstream = upstream
        calls = transport.calls
        self._samples = Samples(calls.store, calls.is_replay)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve a request."""
        request = Request(scope, receive)
        try:
            with self._upstream.pool() as scope["state"]["pool"]:
                response = await self._answer(request)
                if response is not _NOBODY:
                    await response(scope, receive, send)
        except ClientDisconnect:
            pass
        finally:
            if ticket := scope["state"].get("ticket"):
                self._samples.leave(ticket)

    async def _answer(self, request: Request) -> Response:
        try:
            return await self._served(request)
        except httpx2.RequestError as error:
            what = f"{self._to} did not answer: {type(error).__name__}: {error}"
            return _of(refusal(_asked_of(self._to), 502, "no_answer", what))

    async def _served(self, request: Request) -> Response:
        path = request.scope["raw_path"].decode("latin-1")
        token = run = None
        if found := _TOKEN.fullmatch(path):
            token, path = found.groups()
        if why := self._door.why_not(request.scope["state"].get("uid"), request.headers, token):
            return _of(refusal(_asked_of(self._to), 403, "not_let_in", why))
        if found := _RUN.fullmatch(path):
            run, path = (found[1], found[2]), found[3]
        if self._base and path.startswith(f"{self._base}/"):  # it has the provider's path already
            path = path[len(self._base) :]
        query = request.scope["query_string"].decode("latin-1")
        url = httpx2.URL(f"{self._to}{path}{'?' * bool(query)}{query}")
        if not self._transport.may_save(request.method, url.path):
            return await self._passed(request, url)
        return await self._asked(request, url, run)

    async def _passed(
        self, request: Request, url: httpx2.URL, content: bytes | None = None
    ) -> Response:
        """Pass a request and its answer through, untouched and as they come."""
        out = () if content is None else ("content-length",)
        body: Any = content
        if body is None and {"content-length", "transfer-encoding"} & set(request.headers):
            body = request.stream()
        headers = _to_provider(request, out)
        if content is None and (length := request.headers.get("content-length")):
            headers.append(("content-length", length))
        asked = _request(request, url, headers, body)
        if refused := self._transport.refused(asked):
            return _of(refused)
        answer = await request.state.pool.send(asked, stream=True)
        return _stream(answer, answer.aiter_raw(), with_length=True)

    async def _asked(self, request: Request, url: httpx2.URL, run: Any) -> Response:
        content = await self._content(request)
        if content is None:
            what = f"a body may have {self._most:,} bytes; see --max-body"
            return _of(refusal(_asked_of(self._to), 413, "too_large", what))
        headers = [*_to_provider(request, ("accept-encoding",)), ("accept-encoding", "gzip")]
        asked = _request(request, url, headers, content)
        ask = self._transport.ask(asked)
        if ask is None:
            return await self._passed(request, url, content)
        return await self._answered(request, asked, await self._numbered(request, ask, run))

    async def _numbered(self, request: Request, ask: Asked, run: Any) -> Asked:
        """Return what a request of a named run asks: a sample of its own."""
        if run is None:
            return ask
        key, retry = self._transport.calls.key(ask), request.headers.get(_RETRY, "0")
        name, attempt = run
        ticket = await self._samples.take(name, attempt, key, retry != "0")
        request.scope["state"]["ticket"] = ticket
        return msgspec.structs.replace(ask, row=ask.row | {"sample": {"run": name, "n": ticket.n}})

    async def _content(self, request: Request) -> bytes | None:
        parts, size = list[bytes](), 0
        async for chunk in request.stream():
            parts.append(chunk)
            size += len(chunk)
            if size > self._most:
                return None
        return b"".join(parts)

    async def _answered(self, request: Request, asked: httpx2.Request, ask: Asked) -> Response:
        """Wait for the answer as long as the client does; it is saved without it, too."""
        ticket = request.scope["state"].get("ticket")
        send = functools.partial(request.state.pool.send, stream=True)
        answer = asyncio.ensure_future(self._transport.answer(asked, send, ask))
        left = asyncio.ensure_future(_leaving(request))
        try:
            await asyncio.wait({answer, left}, return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                return _NOBODY
            response = answer.result()
            if "live" in response.extensions and response.extensions["live"].is_stream:
                return _stream(response, self._events(response, ticket))
            if ticket is not None and response.status_code < 400 and not left.done():
                await self._samples.give(ticket)
            return _of(response)
        finally:
            answer.cancel()
            left.cancel()

    async def _events(self, answer: httpx2.Response, ticket: Ticket | None) -> AsyncIterator[bytes]:
        """Yield a stream; a sample is given once it is saved, before its last event."""
        live = answer.extensions["live"]
        async for chunk in answer.aiter_raw():
            if ticket is not None and live.is_saved:
                await self._samples.give(ticket)
                ticket = None
            yield chunk


_RETRY = "x-stainless-retry-count"


async def _leaving(request: Request) -> None:
    """Return once the client has left."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _to_provider(request: Request, out: tuple[str, ...]) -> list[tuple[str, str]]:
    return passed_on(request.headers.items(), ("host", TOKEN, *out))


def _request(request: Request, url: httpx2.URL, headers: Any, content: Any) -> httpx2.Request:
    extensions = {"timeout": request.state.pool.timeout.as_dict()}
    return httpx2.Request(
        request.method, url, headers=headers, content=content, extensions=extensions
    )


def _asked_of(to: str) -> httpx2.Request:
    return httpx2.Request("POST", to)


def _of(response: httpx2.Response) -> Response:
    out = Response(response.content, response.status_code)
    own = [it for it in out.raw_headers if it[0] == b"content-length"]
    headers = passed_on(response.headers.multi_items(), ("content-encoding",))
    out.raw_headers = [*_raw(headers), *own]
    return out


def _stream(answer: httpx2.Response, body: Any, with_length: bool = False) -> StreamingResponse:
    out = StreamingResponse(_closing(answer, body), answer.status_code)
    out.raw_headers = _raw(passed_on(answer.headers.multi_items()))
    if with_length and "content-length" in answer.headers:
        out.raw_headers.append((b"content-length", answer.headers["content-length"].encode()))
    return out


def _raw(headers: list[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    return [
        (name.lower().encode(), value.encode("latin-1"))
        for name, value in headers
        if name.lower() not in ("date", "server")  # this server adds its own
    ]


async def _closing(answer: httpx2.Response, body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    async with contextlib.aclosing(body):  # type: ignore[type-var]
        try:
            async for chunk in body:
                yield chunk
        finally:
            await answer.aclose()


class _Protocol(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """Note whose the other end is, once a connection."""

    app_state: dict[str, Any]

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        peer, own = transport.get_extra_info("peername"), transport.get_extra_info("sockname")
        uid = uid_of(peer[:2], own[:2]) if peer else None
        self.app_state = {**self.app_state, "uid": uid}


class _Server(uvicorn.Server):
    """A server whose end waits for calls whose clients have left."""

    def __init__(self, config: uvicorn.Config, drain: Callable[[], Awaitable[None]]) -> None:
        super().__init__(config)
        self._drain = drain

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more requests, and end once all that were made are answered and saved."""
        await super().shutdown(sockets)
        draining = asyncio.ensure_future(self._drain())
        while not (draining.done() or self.force_exit):  # a second Ctrl-C gives them up
            await asyncio.wait({draining}, timeout=0.1)
        if draining.done():
            draining.result()


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens; port 0 for any that is free.

    Raises:
        OSError: the address is taken, or not one of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(1024)
    except OSError:
        listening.close()
        raise
    return listening


def server_of(relay: Relay, drain: Callable[[], Awaitable[None]]) -> uvicorn.Server:
    """Return a server of the application.

    Args:
        relay: the application.
        drain: waits at the end for calls whose clients have left.
    """
    config = uvicorn.Config(
        relay, http=_Protocol, ws="none", lifespan="off", log_level="warning", access_log=False
    )
    return _Server(config, drain)


async def serve(
    listening: socket.socket, to: str, transport: Checkpointed, door: Door, most: int
) -> None:
    """Serve until a signal ends it; calls in flight are awaited and saved."""
    async with contextlib.aclosing(Upstream()) as upstream:
        relay = Relay(to, transport, upstream, door, most)
        await server_of(relay, transport.aclose).serve([listening])
