"""A transport for `httpx` and `httpx2` clients whose paid answers are saved. Knows no provider."""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any, Unpack

from ..engine.keywords import StepOptions
from ..errors import BudgetExceeded, ReplayMissError
from ..loops.direct import StoreOrPath
from .answers import UpstreamError
from .calls import Calls
from .live import Live
from .prices import Prices
from .recipes import Asked, asked, find, more_recipes

HOW = "x-checkpointdb"  # of an answer: miss, hit or joined


class Checkpointed:
    """A transport that saves what a provider answers, and answers from what is saved.

    `OpenAI(http_client=httpx.Client(transport=Checkpointed("calls.ckpt", version=1)))`; the same
    for `AsyncClient` under asyncio, and for `httpx2`. Chat completions, responses, embeddings,
    Anthropic's messages and Gemini's generateContent are saved, all else passes through untouched.

    Promise: an answer below 400 is on the disk before the client has its end; equal requests in
    flight are one call; a client that leaves ends no call. Streams are passed on as they come and
    saved when they are whole. Credentials and cookies are never stored.

    Args:
        store: an open store, or its path.
        version: of the results; another one asks again.
        transport: what sends requests; that of the client's package unless given.
        paths: ends of further paths whose answers to POST are to be saved: `("/v1/rerank",)`.
        prices: what tokens cost.
        max_cost: dollars that the store's steps may cost, over all runs; then answers that are not
            saved are HTTP 402.
        record: True to ask again, and put the answer in the place of a saved one.
        **options: of the steps, see `StepOptions`; `save` is `every(rows=1)` unless given, and the
            ledger is on. Under `replay=True` what is not saved is HTTP 404.
    """

    def __init__(
        self,
        store: StoreOrPath,
        *,
        version: int | str,
        transport: Any = None,
        paths: tuple[str, ...] = (),
        prices: Prices | None = None,
        max_cost: float | None = None,
        record: bool = False,
        **options: Unpack[StepOptions],
    ) -> None:
        self._recipes = more_recipes(paths)
        self.calls = Calls(store, version, prices, max_cost, record, options)
        self._transport = transport
        self._inner = dict[tuple[str, bool], Any]()

    def may_save(self, method: str, path: str) -> bool:
        """Tell whether the answer to such a request is a result, unless its body says otherwise."""
        return find(self._recipes, method, path) is not None

    def ask(self, request: Any) -> Asked | None:
        """Return what a request, which was read, asks; None for what is passed through."""
        url = request.url
        recipe = find(self._recipes, request.method, url.path)
        if recipe is None:
            return None
        origin = f"{url.scheme}://{url.netloc.decode('ascii')}"
        query = url.query.decode("ascii")
        return asked(recipe, origin, url.path, query, request.headers, request.content)

    def handle_request(self, request: Any) -> Any:
        """Answer a request of a `Client`."""
        ask = None
        if self.may_save(request.method, request.url.path):
            request.read()
            ask = self.ask(request)
        send = self._sender(request, False).handle_request
        if ask is None:
            return self.refused(request) or send(request)
        live, how = self.calls.begin(request, send, ask)
        live.wait()
        return self._response(request, live, how)

    async def handle_async_request(self, request: Any) -> Any:
        """Answer a request of an `AsyncClient`."""
        ask = None
        if self.may_save(request.method, request.url.path):
            await request.aread()
            ask = self.ask(request)
        send = self._sender(request, True).handle_async_request
        if ask is None:
            return self.refused(request) or await send(request)
        return await self.answer(request, send, ask)

    async def answer(self, request: Any, send: Any, ask: Asked) -> Any:
        """Answer what is asked."""
        live, how = await self.calls.abegin(request, send, ask)
        await live.await_()
        return self._response(request, live, how)

    def _sender(self, request: Any, is_async: bool) -> Any:
        """Return the transport beneath, of the package that the request is of."""
        if self._transport is not None:
            return self._transport
        package = package_of(request)
        inner = self._inner.get((package.__name__, is_async))
        if inner is None:
            make = package.AsyncHTTPTransport if is_async else package.HTTPTransport
            inner = self._inner[package.__name__, is_async] = make()
        return inner

    def refused(self, request: Any) -> Any:
        """Return the answer to a request that is not passed through; None if it is."""
        if not self.calls.is_replay:
            return None
        what = f"{request.method} {request.url.path} is no request whose answers are saved"
        return refusal(request, 404, "not_saved", f"{what}, and a replay calls nothing")

    def _response(self, request: Any, live: Live, how: str) -> Any:
        package, headers = package_of(request), [*live.headers, (HOW, how or live.how)]
        more = {"request": request, "headers": headers, "extensions": {"live": live}}
        if live.error is not None and not live.is_stream:
            return _of_error(request, live.error)
        if not live.is_stream:
            content = b"".join(live.chunks)
            return package.Response(live.status, content=content, **more)
        return package.Response(live.status, stream=_stream_class(package)(live), **more)

    def close(self) -> None:
        """Close what is beneath, and the store if it was given as a path."""
        for (_, is_async), inner in self._inner.items():
            if not is_async:
                inner.close()
        if self._transport is not None:
            self._transport.close()
        self.calls.close()

    async def aclose(self) -> None:
        """Do as `close`, once all calls are answered and saved."""
        await self.calls.drain()
        for (_, is_async), inner in self._inner.items():
            if is_async:
                await inner.aclose()
        if self._transport is not None:
            await self._transport.aclose()
        self.calls.close()

    def __enter__(self) -> Checkpointed:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Checkpointed:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


def package_of(request: Any) -> Any:
    """Return `httpx` or `httpx2`, whichever a request is of."""
    return importlib.import_module(type(request).__module__.partition(".")[0])


def _of_error(request: Any, error: BaseException) -> Any:
    """Return the answer that an error stands for; raise it if it stands for none."""
    if isinstance(error, UpstreamError):
        headers, content = error.headers, error.content
        return package_of(request).Response(
            error.status, headers=headers, content=content, request=request
        )
    if isinstance(error, BudgetExceeded):
        return refusal(request, 402, "budget_exceeded", str(error))
    if isinstance(error, ReplayMissError):
        return refusal(request, 404, "not_saved", str(error))
    raise error


def refusal(request: Any, status: int, kind: str, message: str) -> Any:
    """Return an error of our own, in the words that the providers' SDKs understand."""
    body = {"error": {"message": f"checkpointdb: {message}", "type": kind, "code": kind}}
    headers = {"content-type": "application/json"}
    if status < 500:  # asked again, it would be refused again; a provider may answer yet
        headers["x-should-retry"] = "false"
    content = json.dumps(body).encode()
    return package_of(request).Response(status, headers=headers, content=content, request=request)


@functools.cache
def _stream_class(package: Any) -> Any:
    """Return the class of a body that is read as it comes: clients ask for their own kind."""

    class Stream(package.SyncByteStream, package.AsyncByteStream):  # type: ignore[misc]
        def __init__(self, live: Live) -> None:
            self._live = live

        def __iter__(self) -> Iterator[bytes]:
            with contextlib.suppress(UpstreamError):  # it ends as the provider's did
                yield from self._live.follow()

        async def __aiter__(self) -> AsyncIterator[bytes]:
            with contextlib.suppress(UpstreamError):
                async for chunk in self._live.afollow():
                    yield chunk

    return Stream
