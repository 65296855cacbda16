"""How a row becomes the arguments of a call, and what of these its key is made of. No store."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from typing import Any

import msgspec

from ..errors import EncodeError
from ..values.canonical import Arguments, canonical
from .callables import parameter_of_row

_ELSEWHERE = {
    "given": "which step(using=...) names, so that it is in no key: give it by using=",
    "using": "which step(using=...) does not name: name it there to leave it out of the key, or "
    "give it by given= to have it in",
}
_BY_NAME = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class Args(msgspec.Struct, frozen=True):
    """A row of several arguments, as `args` makes it.

    Attributes:
        args: arguments by position.
        kwargs: arguments by name.
    """

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}

    def __repr__(self) -> str:
        named = (f"{name}={value!r}" for name, value in self.kwargs.items())
        return f"args({', '.join([*map(repr, self.args), *named])})"

    def __checkpoint_key__(self) -> Any:
        raise TypeError("args(...) is a whole row, and cannot be part of one")


def args(*args: Any, **kwargs: Any) -> Args:
    """Return the row of a call with several arguments, for wherever a row is taken.

    `label.get(args(row, temperature=0.9))` looks up what `label(row, temperature=0.9)` saved.
    """
    return Args(args, kwargs)


def call(fn: Any, argument: Any) -> Any:
    """Call a step with what `Binder.argument` or `Binder.batch` made."""
    if type(argument) is Args:
        return fn(*argument.args, **argument.kwargs)
    return fn(argument)


class Binder:
    """Turn rows into what their keys are made of, and into the arguments of the step's calls.

    Args:
        fn: the step's function.
        using: names of its parameters that are means (a client): neither in the key nor stored.
        given: arguments that are the same for all rows, and in the key of each.
        means: values of parameters that are means, for all rows.
    """

    def __init__(
        self,
        fn: Any,
        using: tuple[str, ...] = (),
        given: Mapping[str, Any] | None = None,
        means: Mapping[str, Any] | None = None,
    ) -> None:
        self._fn, self._using = fn, using
        self._given, self._means = dict(given or {}), dict(means or {})
        if using:
            self._check_using()
        self.is_given = bool(given)  # no row is its own content then
        # whether a row that is no `Args` is the argument of its call
        self.is_bare = not (given or means or self._lacks_means())

    @functools.cached_property
    def _signature(self) -> inspect.Signature:
        return inspect.signature(self._fn)

    @functools.cached_property
    def _row_name(self) -> str | None:
        return parameter_of_row(self._signature, self._using)

    def with_values(
        self, given: Mapping[str, Any] | None, means: Mapping[str, Any] | None
    ) -> Binder:
        """Return the binder of a run to which `given=` and `using=` were given.

        Raises:
            TypeError: a name that the function does not have, or that belongs to the other keyword;
                a value that cannot be in a key.
        """
        if not (given or means):
            return self
        self._check_names("given", given or {})
        self._check_names("using", means or {})
        for name, value in (given or {}).items():
            try:
                canonical(value)
            except EncodeError as error:
                raise TypeError(
                    f"given={{{name!r}: ...}} is in every key, and {error}; give a client or "
                    f"another means by using=, and name it in step(using=({name!r},))"
                ) from None
        return Binder(self._fn, self._using, given, means)

    # --- a row

    def content(self, row: Any) -> Any:
        """Return what the key of a row is made of: the row itself, or its arguments.

        An argument left to its default is not included: a new optional parameter changes no key.

        Raises:
            TypeError: the function cannot be called with them.
        """
        if type(row) is not Args and not self._given:
            return row
        bound = self._bind(row, self._given, partly=True).arguments
        self._leave_out_means(bound)
        if len(bound) == 1 and next(iter(bound)) == self._row_name:
            return next(iter(bound.values()))
        return Arguments(bound)

    def argument(self, row: Any) -> Any:
        """Return what `call` takes for a row.

        Raises:
            TypeError: the function cannot be called with it.
        """
        if self.is_bare and type(row) is not Args:
            return row
        return _args(self._bind(row, self._given | self._means))

    def batch(self, rows: list[Any]) -> Any:
        """Return what `call` takes for a batch of rows.

        Raises:
            TypeError: a row has several arguments.
        """
        if any(type(row) is Args for row in rows):
            raise TypeError(
                "a row of several arguments cannot be in a batch: give what is the same for all "
                "rows by given= or using="
            )
        return rows if self.is_bare else self.argument(rows)

    def _bind(self, row: Any, more: dict[str, Any], partly: bool = False) -> inspect.BoundArguments:
        it = row if type(row) is Args else self._alone(row)
        if twice := sorted(more.keys() & it.kwargs.keys()):
            raise TypeError(f"{twice[0]!r} is given for all rows, and again by {row!r:.200}")
        bind = self._signature.bind_partial if partly else self._signature.bind
        bound = bind(*it.args, **more, **it.kwargs)
        if partly and (missing := [name for name in self._required if name not in bound.arguments]):
            raise TypeError(f"missing a required argument: {missing[0]!r}")
        return bound

    def _alone(self, row: Any) -> Args:
        """Return the arguments of a call for a row that is a single argument."""
        first = next(iter(self._signature.parameters), None)
        name = self._row_name
        return Args((row,)) if name in (None, first) else Args((), {name or "": row})

    @functools.cached_property
    def _required(self) -> list[str]:
        """The names of what each call needs, means aside."""
        return [
            name
            for name, parameter in self._signature.parameters.items()
            if parameter.default is parameter.empty
            and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
            and name not in self._using
        ]

    def _leave_out_means(self, bound: dict[str, Any]) -> None:
        for name in self._using:
            bound.pop(name, None)
        rest = self._rest_name
        if rest in bound:
            bound[rest] = {k: v for k, v in bound[rest].items() if k not in self._using}
            if not bound[rest]:
                del bound[rest]

    # --- names

    @functools.cached_property
    def _rest_name(self) -> str:
        """The name of `**kwargs`, if there are such."""
        parameters = self._signature.parameters.values()
        return next((it.name for it in parameters if it.kind is it.VAR_KEYWORD), "")

    def _lacks_means(self) -> bool:
        """Tell whether a means has no value and no default: a call with the row alone must fail."""
        found = self._signature.parameters if self._using else {}
        return any(name in found and found[name].default is inspect.Parameter.empty
                   for name in self._using if name not in self._means)  # fmt: skip

    def _takes(self, name: str) -> bool:
        parameter = self._signature.parameters.get(name)
        return bool(self._rest_name) if parameter is None else parameter.kind in _BY_NAME

    def _check_using(self) -> None:
        for name in self._using:
            if not self._takes(name):
                raise TypeError(f"using= names {name!r}, {self._no_parameter}")
        if self._row_name in (None, *self._using):
            raise TypeError(f"using={self._using!r} leaves no parameter for the row")

    def _check_names(self, keyword: str, values: Mapping[str, Any]) -> None:
        if not isinstance(values, Mapping) or not all(isinstance(name, str) for name in values):
            raise TypeError(
                f"{keyword} must be arguments by name, {{'name': value}}, not {values!r}"
            )
        for name in values:
            if not self._takes(name):
                raise TypeError(f"{keyword}= has {name!r}, {self._no_parameter}")
            if name == self._row_name:
                raise TypeError(f"{keyword}= has {name!r}, which is the row itself")
            if (name in self._using) != (keyword == "using"):
                raise TypeError(f"{keyword}= has {name!r}, {_ELSEWHERE[keyword]}")

    @property
    def _no_parameter(self) -> str:
        name = getattr(self._fn, "__name__", "the step")
        names = [it.name for it in self._signature.parameters.values() if it.kind in _BY_NAME]
        return f"but {name} has no such parameter; it has {', '.join(names) or 'none'}"


def _args(bound: inspect.BoundArguments) -> Args:
    return Args(bound.args, bound.kwargs)
