"""An answer of a provider: as it is read, as it is saved, as it is given out again.

Knows JSON and server-sent events; no client, no server and no store.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import msgspec

from .recipes import Ends

EVENTS = "text/event-stream"
Headers = list[tuple[str, str]]

# of one connection, or of the bytes that were on it
_OF_HOP = frozenset(
    (
        "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer",
        "transfer-encoding", "upgrade", "content-length",
    )
)  # fmt: skip
_KEPT = re.compile(r"content-type|location|(x-)?request-id|openai-(model|version|processing-ms)")
_BORDER = re.compile(rb"\r\n\r\n|\n\n|\r\r")
_LONGEST = 2000  # characters of an error's text in the store

# how providers and proxies write JSON; what is written otherwise is kept as text
_FORMS: dict[str, Callable[[Any], str]] = {
    "compact": lambda value: json.dumps(value, separators=(",", ":"), ensure_ascii=False),
    "spaced": lambda value: json.dumps(value, ensure_ascii=False),
    "indented": lambda value: json.dumps(value, indent=2, ensure_ascii=False),
    "compact ascii": lambda value: json.dumps(value, separators=(",", ":")),
    "spaced ascii": json.dumps,
    "indented ascii": lambda value: json.dumps(value, indent=2),
}


class UpstreamError(Exception):
    """The provider answered with an error, or with a stream that broke off: no result.

    Attributes:
        status: of HTTP.
        headers: as they came.
        content: the body.
    """

    def __init__(self, what: str, status: int, headers: Headers, content: bytes) -> None:
        super().__init__(what)
        self.status, self.headers, self.content = status, headers, content


def passed_on(headers: Iterable[tuple[str, str]], more: Iterable[str] = ()) -> Headers:
    """Return the headers that another connection may have, without those named in `more`."""
    headers = list(headers)
    named = ",".join(value for name, value in headers if name.lower() == "connection")
    out = {*_OF_HOP, *more, *(name.strip().lower() for name in named.split(","))}
    return [(name, value) for name, value in headers if name.lower() not in out]


class Reading:
    """An answer while it comes in: what of it may be passed on, and what it is in the end.

    Args:
        status: of HTTP.
        headers: of the answer.
        ends: how its stream says that it is whole.
    """

    def __init__(self, status: int, headers: Iterable[tuple[str, str]], ends: Ends) -> None:
        self.status = status
        self.headers = passed_on(headers, ("content-encoding", "set-cookie"))
        kind = next((v for name, v in self.headers if name.lower() == "content-type"), "")
        self.is_stream = status < 400 and kind.lower().startswith(EVENTS)
        self._ends, self._parts = ends, list[bytes]()
        self._rest, self._problem = b"", ""
        self.is_whole = False  # the stream has said so
        self._has_finished = False  # Gemini's has: more may come, and the connection's end is its

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Take what came; yield the events that may be passed on: all before the last one."""
        if not self.is_stream:
            self._parts.append(chunk)
            return
        self._rest += chunk
        while (border := _BORDER.search(self._rest)) and not self.is_whole:
            event, self._rest = self._rest[: border.end()], self._rest[border.end() :]
            self._parts.append(event)
            self._look_at(event)
            if not self.is_whole:
                yield event

    def _look_at(self, event: bytes) -> None:
        name, data = parts_of(event)
        if data == "[DONE]":
            self.is_whole = self._ends in ("done", "any")
            return
        body = decoded(data)
        body = body if isinstance(body, dict) else {}
        kind = body.get("type") or name
        if kind in ("error", "response.failed") or body.get("error"):
            self._problem = f"the stream has an error: {data}"
        elif self._ends == "gemini":
            candidates = body.get("candidates")
            found = candidates if isinstance(candidates, list) else []
            is_last = any(isinstance(it, dict) and it.get("finishReason") for it in found)
            self._has_finished = self._has_finished or is_last
        elif kind in _LAST_EVENTS.get(self._ends, ()):
            self.is_whole = True

    def result(self) -> dict[str, Any]:
        """Return the whole answer as it is saved.

        Raises:
            UpstreamError: it is none: an error, or a stream that broke off.
        """
        if self._rest and not self.is_whole:  # an event without an empty line after it
            self._parts.append(self._rest)
            self._look_at(self._rest)
        content = b"".join(self._parts)
        if self.status >= 400:
            text = content.decode("utf-8", "replace")[:_LONGEST]
            raise self._error(f"HTTP {self.status}: {text}", content)
        if self._problem:
            raise self._error(self._problem[:_LONGEST], content)
        if self.is_stream and not (self.is_whole or self._has_ended_by_itself()):
            raise self._error("the stream broke off before its last event", content)
        headers = {name.lower(): v for name, v in self.headers if _KEPT.fullmatch(name.lower())}
        return {"status": self.status, "headers": headers} | _saved_body(content, self.is_stream)

    def _has_ended_by_itself(self) -> bool:
        if self._ends == "gemini":
            return self._has_finished
        return self._ends == "any"

    def _error(self, what: str, content: bytes) -> UpstreamError:
        return UpstreamError(what, self.status, self.headers, content)


_LAST_EVENTS: dict[str, tuple[str, ...]] = {
    "responses": ("response.completed", "response.incomplete"),
    "anthropic": ("message_stop",),
    "any": ("response.completed", "response.incomplete", "message_stop"),
}


def parts_of(event: bytes) -> tuple[str, str]:
    """Return the name and the data of a server-sent event."""
    name, data = "", []
    for line in event.decode("utf-8", "replace").splitlines():
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            name = value
        elif field == "data":
            data.append(value)
    return name, "\n".join(data)


def decoded(text: str | bytes) -> Any:
    """Return JSON as a value; None if it is none."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _saved_body(content: bytes, is_stream: bool) -> dict[str, Any]:
    """Return a body such that the same bytes come back; as JSON that SQL can look into, if so."""
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return {"body": content}
    value = None if is_stream else decoded(text)
    if isinstance(value, dict | list):
        bare = text.rstrip("\n")
        for form, write in _FORMS.items():
            if write(value) == bare:
                return {"body": value, "form": form + text[len(bare) :]}
    return {"body": text}


def content_of(answer: Mapping[str, Any]) -> bytes:
    """Return the body of a saved answer, byte for byte."""
    body, form = answer["body"], answer.get("form")
    if form is not None:
        bare = form.rstrip("\n")
        body = _FORMS[bare](body) + form[len(bare) :]
    return body.encode() if isinstance(body, str) else bytes(body)


def is_stream(answer: Mapping[str, Any]) -> bool:
    """Tell whether a saved answer is given out as a stream."""
    kind: str = answer["headers"].get("content-type", "")
    return kind.lower().startswith(EVENTS)


def events_of(content: bytes) -> Iterator[bytes]:
    """Yield the events of a stream."""
    start = 0
    for border in _BORDER.finditer(content):
        yield content[start : border.end()]
        start = border.end()
    if content[start:]:
        yield content[start:]
