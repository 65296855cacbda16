"""A client in the place of the SDK's own: it notes what a step asks, or answers from a batch.

The step's code runs as it is, with the SDK's classes and errors: what it asks live and what it asks
in a batch cannot differ. Knows lines of batches; sends nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import msgspec
import xxhash

from ..engine.current import calling, current_key
from ..engine.rows import Slot
from ..loops.loop_thread import shared_loop
from ..step import Step
from .httpx import package_of


class Request(msgspec.Struct, frozen=True):
    """What a step asks for a row: the path, as lines of a batch have it, and the JSON body."""

    path: str
    body: bytes


class _AskedError(BaseException):
    """Ends a call before anything is sent; no `except Exception` of the step's catches it."""

    def __init__(self, request: Request) -> None:
        self.request = request


class Line(msgspec.Struct, frozen=True):
    """A line of what a batch gives back."""

    custom_id: str
    response: dict[str, Any] | None = None
    error: dict[str, Any] | None = None


class _Transport:
    """A transport for the clients of `httpx` and `httpx2`, sync and async, that sends nothing."""

    def __init__(self, handle: Callable[[Any], Any]) -> None:
        self._handle = handle

    def handle_request(self, request: Any) -> Any:
        request.read()
        return self._handle(request)

    async def handle_async_request(self, request: Any) -> Any:
        await request.aread()
        return self._handle(request)

    def close(self) -> None: ...
    async def aclose(self) -> None: ...


def client_like(client: Any, handle: Callable[[Any], Any]) -> Any:
    """Return a client like `client` whose requests are given to `handle`."""
    import openai

    is_sync = isinstance(client, openai.OpenAI)
    kind: Any = openai.DefaultHttpxClient if is_sync else openai.DefaultAsyncHttpxClient
    return client.copy(http_client=kind(transport=_Transport(handle)), max_retries=0)


class Answers:
    """Answer what a step asks for the row that it is called for; each row once.

    A step that tries again gets no second answer: the provider would not be asked either.

    Args:
        digests: of what each row asked when it was submitted.

    Attributes:
        changed: how many rows ask something else now.
    """

    def __init__(self, digests: Mapping[str, str]) -> None:
        self._digests, self.changed = digests, 0
        self._lines = dict[str, Line | str]()

    def add(self, line: Line) -> None:
        """Have a row answered by a line."""
        self._lines[line.custom_id] = line

    def handle(self, request: Any) -> Any:
        """Return the response to a request."""
        key = current_key()
        line = self._lines.get(key, "the batch has no answer for this row")
        if isinstance(line, str):
            return _refusal(request, "batch", line)
        self.changed += self._digests[key] != _digest(request.content)
        response, error = line.response or {}, line.error or {}
        status = response.get("status_code") or 0
        self._lines[key] = f"a batch answers once, and its answer had status {status}: {error}"
        if status < 100:  # some lines have a response without one
            text = error.get("message") or f"the batch has no response for this row: {line}"
            return _refusal(request, error.get("code") or "batch", text)
        return package_of(request).Response(status, json=response.get("body"), request=request)


def _refusal(request: Any, code: Any, message: Any) -> Any:
    """Return a response that the SDK raises as an error, and that nobody tries again."""
    error = {"message": str(message), "type": "batch", "code": str(code), "param": None}
    return package_of(request).Response(400, json={"error": error}, request=request)


class Asking:
    """Find out what a step asks, by calling it up to its first request.

    Args:
        step: the user's.
        client: of the SDK.
        means: returns the step's `using=`, with a client in the place of this one.
        given: as a run's.
    """

    def __init__(
        self, step: Step[..., Any], client: Any, means: Callable[[Any], dict[str, Any]], given: Any
    ) -> None:
        self._spec, self._prefix = step._spec, client.base_url.path.rstrip("/")
        self._binder = step._binder.with_values(given, means(client_like(client, self._asked)))

    def content(self, row: Any) -> Any:
        """Return what the key of a row is made of."""
        return self._binder.content(row)

    def key(self, row: Any) -> str:
        """Return the key of a row; raise `EncodeError` if it has no stable content."""
        return self._spec.keyer.identify(self.content(row))[0].hex()

    def request(self, key: str, row: Any) -> Request | None:
        """Return what the step asks for a row; None if it raises or returns without a request."""
        slot = Slot(self.content(row), 0, bytes.fromhex(key), b"", 0)
        token = calling.set(((slot,), calling.get()))
        try:
            returned = self._spec.fn(self._binder.argument(row))
            if self._spec.is_async:
                shared_loop().wait(returned)
        except _AskedError as asked:
            return asked.request
        except Exception:  # noqa: BLE001 - its run raises it again, and records it
            return None
        finally:
            calling.reset(token)
        return None

    def _asked(self, request: Any) -> Any:
        path = request.url.path.removeprefix(self._prefix)
        raise _AskedError(Request(f"/v1{path}", request.content))


class Chunk:
    """Requests that go into one batch: of one path and model.

    Attributes:
        lines: by key, as they are sent.
        digests: of the requests, by key.
        size: of the lines, in bytes.
    """

    def __init__(self, path: str) -> None:
        self.path, self.size = path, 0
        self.lines, self.digests = dict[str, bytes](), dict[str, str]()

    def add(self, key: str, line: bytes, request: Request) -> None:
        """Add a line."""
        self.lines[key], self.digests[key] = line, _digest(request.body)
        self.size += len(line)

    def drop(self, key: str) -> None:
        """Leave a row out."""
        del self.lines[key], self.digests[key]


def chunks(requests: Iterable[tuple[str, Request]], most: int, most_bytes: int) -> Iterator[Chunk]:
    """Yield requests in as few batches as the limits allow.

    Args:
        requests: with the key of each.
        most: lines of a batch.
        most_bytes: of its file.

    Raises:
        ValueError: a request cannot be in a batch: it is too large, a stream, or no JSON.
    """
    filling = dict[tuple[str, Any], Chunk]()
    for key, request in requests:
        body = _body(key, request)
        fields = {"custom_id": key, "method": "POST", "url": request.path, "body": body}
        line = json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        if len(line) > most_bytes:
            raise ValueError(
                f"the request for the row of key {key} has {len(line):,} bytes, and the file of a "
                f"batch at most {most_bytes:,}: make it smaller, or call the step for this row"
            )
        of = request.path, body.get("model")
        chunk = filling.setdefault(of, Chunk(request.path))
        if len(chunk.lines) == most or chunk.size + len(line) > most_bytes:
            yield chunk
            chunk = filling[of] = Chunk(request.path)
        chunk.add(key, line, request)
    yield from filling.values()


def _digest(content: bytes) -> str:
    """Return a digest of a body, whichever release of the SDK wrote it."""
    return xxhash.xxh3_64_hexdigest(msgspec.json.encode(_parsed(content), order="sorted"))


def _parsed(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return None


def _body(key: str, request: Request) -> dict[str, Any]:
    body = _parsed(request.body)
    if not isinstance(body, dict) or body.get("stream"):
        what = "a stream" if isinstance(body, dict) else "no JSON object"
        raise ValueError(
            f"the step asks {request.path} for {what} (the row of key {key}), which a batch cannot "
            "do: run the step itself for such rows"
        )
    return body
