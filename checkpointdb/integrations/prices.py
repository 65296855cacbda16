"""What an answer cost, by its usage and a price of tokens. Knows the providers' counts."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from ..file.usage import MOST
from .answers import content_of, decoded, events_of, is_stream, parts_of

_MILLION = 1e6
_DATE = re.compile(r"-\d{4}-?\d{2}-?\d{2}$|-latest$")
_BYTES_A_TOKEN = 3  # where a provider reports no usage: rather too many than too few


class Price(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a model costs, in dollars for a million tokens.

    Attributes:
        input: of tokens that are read.
        output: of tokens that are written.
        cached: of tokens that are read from the provider's cache; as `input` unless given.
    """

    input: float
    output: float = 0.0
    cached: float | None = None

    def __post_init__(self) -> None:
        for amount in (self.input, self.output, self.cached or 0.0):
            if not 0 <= amount < math.inf:
                raise ValueError(f"a price is dollars for a million tokens, not {amount!r}")


class Tokens(msgspec.Struct, frozen=True):
    """How many tokens an answer took; `input` without those that were cached."""

    input: float = 0
    output: float = 0
    cached: float = 0


class Prices:
    """What tokens cost, by model.

    Args:
        by_model: a price for each model; one named without its date is for those with one, too.
        otherwise: the price of all other models.
    """

    def __init__(self, by_model: Mapping[str, Price], otherwise: Price | None = None) -> None:
        self._by_model, self._otherwise = dict(by_model), otherwise

    @classmethod
    def read(cls, text: bytes) -> Prices:
        """Return the prices that a JSON file holds: `{"model": {"input": 2.5, "output": 10}}`.

        Raises:
            ValueError: it holds none; the message says where.
        """
        return cls(msgspec.json.decode(text, type=dict[str, Price]))

    @classmethod
    def a_token(cls, dollars: float) -> Prices:
        """Return one price for each token of any model."""
        return cls({}, Price(dollars * _MILLION, dollars * _MILLION))

    def knows(self, model: str | None) -> bool:
        """Tell whether a model has a price."""
        return self._of(model) is not None

    def _of(self, model: str | None) -> Price | None:
        if model is None:
            return self._otherwise
        return self._by_model.get(model) or self._by_model.get(
            _DATE.sub("", model), self._otherwise
        )

    def cost(self, answer: Mapping[str, Any]) -> float:
        """Return what a saved answer cost in dollars; 0 if its model has no price."""
        price = self._of(answer.get("model"))
        if price is None:
            return 0.0
        tokens = tokens_of(answer)
        cached = price.input if price.cached is None else price.cached
        dollars = tokens.input * price.input + tokens.output * price.output + tokens.cached * cached
        return dollars / _MILLION


def tokens_of(answer: Mapping[str, Any]) -> Tokens:
    """Return how many tokens a saved answer took; estimated if its provider does not say."""
    usage = usage_of(answer)
    if not usage:
        return Tokens(output=len(content_of(answer)) / _BYTES_A_TOKEN)
    return _counted(usage)


def usage_of(answer: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a saved answer says of its usage, in its provider's words; {} if nothing."""
    usage = dict[str, Any]()
    for body in _bodies(answer):
        for holder in (body.get("message"), body.get("response"), body):
            for name in ("usage", "usageMetadata"):
                found = holder.get(name) if isinstance(holder, dict) else None
                usage |= found if isinstance(found, dict) else {}
    return usage


def counts_of(answer: Mapping[str, Any]) -> dict[str, Any]:
    """Return the whole numbers of what a saved answer says of its usage: `usage=` of a step."""
    return _whole_numbers(usage_of(answer))


def _whole_numbers(usage: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out dollars, labels and what no provider should say: the answer is good anyway."""
    return {
        name: _whole_numbers(value) if isinstance(value, dict) else value
        for name, value in usage.items()
        if isinstance(value, dict) or (type(value) is int and 0 <= value <= MOST)
    }


def _bodies(answer: Mapping[str, Any]) -> list[dict[str, Any]]:
    content = content_of(answer)
    texts = [parts_of(it)[1] for it in events_of(content)] if is_stream(answer) else [content]
    bodies = [answer["body"]] if "form" in answer else map(decoded, texts)
    return [body for each in bodies for body in (each if isinstance(each, list) else [each])
            if isinstance(body, dict)]  # fmt: skip


def _counted(usage: Mapping[str, Any]) -> Tokens:
    """Return the counts of a provider's own words."""

    def number(*names: str) -> float:
        found = (usage.get(name) for name in names)
        return next((it for it in found if isinstance(it, int | float)), 0)

    details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details") or {}
    within = details.get("cached_tokens", 0) if isinstance(details, dict) else 0
    within = within or number("cachedContentTokenCount")
    read = number("prompt_tokens", "input_tokens", "promptTokenCount")
    apart = number("cache_read_input_tokens")  # Anthropic's are not among input_tokens
    written = number("completion_tokens", "output_tokens", "candidatesTokenCount")
    return Tokens(
        input=read - within + number("cache_creation_input_tokens"),
        output=written + number("thoughtsTokenCount"),
        cached=within + apart,
    )
