"""Which requests create nothing and are worth keeping, and what of them is their identity.

Knows HTTP's words and the providers' formats; no client, no server and no store.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import parse_qsl, urlencode

import msgspec

Ends = Literal["done", "responses", "anthropic", "gemini", "any"]

# what says which contract an answer keeps to
_VERSION_HEADERS = ("anthropic-version", "anthropic-beta", "openai-beta", "api-version")
# of the query: keys, which are never stored
_SECRETS = frozenset(
    ("key", "api_key", "api-key", "apikey", "access_token", "token", "sig", "subscription-key")
)
# of the body: bookkeeping, which no answer depends on
_BOOKKEEPING = frozenset(
    ("metadata", "safety_identifier", "prompt_cache_key", "prompt_cache_retention")
)
_LONGEST_NAME = 100
_EXACT = 2**53  # below it a float that is whole is that whole number


class Recipe(msgspec.Struct, frozen=True):
    """A kind of request whose answers are results.

    Attributes:
        path: a pattern of the end of its path.
        ends: how its stream says that it is whole.
        creates: fields of the body that make the provider keep something: then it passes through.
    """

    path: re.Pattern[str]
    ends: Ends = "any"
    creates: tuple[str, ...] = ()


RECIPES = (
    Recipe(re.compile(r"/(chat/)?completions$"), "done"),
    Recipe(re.compile(r"/responses$"), "responses", ("background", "conversation")),
    Recipe(re.compile(r"/embeddings$")),
    Recipe(re.compile(r"(^|/)v\d+/messages$"), "anthropic"),
    Recipe(
        re.compile(
            r"/models/[^/]+:(generateContent|streamGenerateContent|embedContent|batchEmbedContents)$"
        ),
        "gemini",
    ),
)


class Asked(msgspec.Struct, frozen=True):
    """A request that is a row: its identity, and how its answer is read.

    Attributes:
        name: of its step: the model and the path, as `ckpt inspect` shows them.
        row: what its key is made of, and what is stored of it.
        model: in the body or the path.
        ends: how its stream says that it is whole.
        streams: whether it asks for a stream.
    """

    name: str
    row: dict[str, Any]
    model: str | None
    ends: Ends
    streams: bool


def more_recipes(paths: tuple[str, ...]) -> tuple[Recipe, ...]:
    """Return the recipes with those of further paths, each given by its end: `/rerank`.

    Raises:
        ValueError: not a path.
    """
    for path in paths:
        if not path.startswith("/") or "?" in path:
            raise ValueError(f"path {path!r} must begin with / and have no query: /v1/rerank")
    return (*RECIPES, *(Recipe(re.compile(re.escape(path) + "$")) for path in paths))


def find(recipes: tuple[Recipe, ...], method: str, path: str) -> Recipe | None:
    """Return the recipe for a request's method and path, if there is one."""
    if method != "POST":
        return None
    return next((recipe for recipe in recipes if recipe.path.search(path)), None)


def asked(
    recipe: Recipe, origin: str, path: str, query: str, headers: Mapping[str, str], content: bytes
) -> Asked | None:
    """Return what a request asks; None if its body is none of the recipe's.

    Args:
        recipe: as `find` found it.
        origin: of the provider: scheme, host and port.
        path: without the query.
        query: the text after the question mark.
        headers: of the request; authorization and cookies are not looked at.
        content: its body.
    """
    try:
        body = msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if not isinstance(body, dict) or any(body.get(field) for field in recipe.creates):
        return None
    row: dict[str, Any] = {"origin": origin, "method": "POST", "path": path}
    if public := [(k, v) for k, v in parse_qsl(query, True) if k.lower() not in _SECRETS]:
        row["query"] = urlencode(sorted(public))
    if versions := {name: headers[name] for name in _VERSION_HEADERS if name in headers}:
        row["headers"] = versions
    row["body"] = {k: canonical(v) for k, v in body.items() if k not in _BOOKKEEPING}
    streams = body.get("stream") is True or path.endswith(":streamGenerateContent")
    model = body["model"] if isinstance(body.get("model"), str) else _model_in(path)
    name = f"{model} {path}" if model else path
    return Asked(name[:_LONGEST_NAME], row, model, recipe.ends, streams)


def canonical(value: Any) -> Any:
    """Return JSON with one way to write each number: other languages write 1.0 as 1."""
    if type(value) is dict:
        return {key: canonical(each) for key, each in value.items()}
    if type(value) is list:
        return [canonical(each) for each in value]
    if type(value) is float and value.is_integer() and abs(value) < _EXACT:
        return int(value)
    return value


def _model_in(path: str) -> str | None:
    """Return the model that a path names: Gemini's and Azure's do."""
    found = re.search(r"/(?:models|deployments)/([^/:]+)", path)
    return found[1] if found else None
