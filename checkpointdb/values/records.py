"""Objects that are records of fields: their listing, their state, and how one is built again.

Knows dataclasses, structs, named tuples, pydantic models, attrs classes and namespaces; no bytes.
A record is built as unpickling builds it, by setting its fields, so that nothing of the user's
runs and what a `__post_init__` or a validator would change stays as it was.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import types
from typing import Any

import msgspec

NAMESPACES = (types.SimpleNamespace, argparse.Namespace)
_ABSENT: Any = object()


def field_names(kind: type) -> tuple[str, ...] | None:
    """Return the names of the fields of a class of records, None for any other class."""
    if dataclasses.is_dataclass(kind):
        return tuple(field.name for field in dataclasses.fields(kind))
    if issubclass(kind, msgspec.Struct):
        return kind.__struct_fields__
    if issubclass(kind, tuple) and hasattr(kind, "_fields"):
        return tuple(kind._fields)
    if is_model(kind):
        return tuple(kind.model_fields)  # type: ignore[attr-defined]
    if hasattr(kind, "__attrs_attrs__"):
        return tuple(field.name for field in kind.__attrs_attrs__)
    return () if issubclass(kind, NAMESPACES) else None


def is_model(kind: Any) -> bool:
    """Tell whether a class is a pydantic model."""
    return isinstance(kind, type) and hasattr(kind, "model_validate_json")


def is_bag(kind: type) -> bool:
    """Tell whether the instances of a class may have more attributes than its fields."""
    return is_model(kind) or issubclass(kind, NAMESPACES) or hasattr(kind, "__attrs_attrs__")


def fields_of(value: Any) -> dict[str, Any] | None:
    """Return the fields of a record, and what else a model was given; None for anything else.

    A field that was deleted or never set is left out.
    """
    if isinstance(value, type) or (names := field_names(type(value))) is None:
        return None
    if isinstance(value, NAMESPACES):
        return dict(vars(value))
    if is_model(type(value)):
        names = (*names, *(value.model_extra or ()))
    fields = ((name, getattr(value, name, _ABSENT)) for name in names)
    return {name: field for name, field in fields if field is not _ABSENT}


def state_of(value: Any) -> dict[str, Any]:
    """Return what an instance has besides its fields, empty for nearly all.

    Returns:
        `set`: the names of the fields that a model was given, if not all. `own`: attributes that
        are no fields, without cached properties. `private`: a model's private attributes.
    """
    kind, state = type(value), dict[str, Any]()
    if isinstance(value, NAMESPACES):
        return state
    if is_model(kind):
        given, all_names = value.model_fields_set, (*kind.model_fields, *(value.model_extra or ()))
        if given != set(all_names):
            state["set"] = [name for name in all_names if name in given]
        if private := value.__pydantic_private__:
            state["private"] = dict(private)
    names = field_names(kind) or ()
    own = {
        name: child
        for name, child in getattr(value, "__dict__", {}).items()
        if name not in names and not _is_cached(kind, name)
    }
    if own:
        state["own"] = own
    return state


def _is_cached(kind: type, name: str) -> bool:
    found = next((base.__dict__[name] for base in kind.__mro__ if name in base.__dict__), None)
    return isinstance(found, functools.cached_property) or type(found).__name__.endswith(
        "cached_property"
    )


def build(kind: type, fields: dict[str, Any], state: dict[str, Any]) -> Any:
    """Return an instance with these fields and this state.

    Raises:
        ValueError: the class has other fields now. One that was added gets its default.
    """
    if issubclass(kind, NAMESPACES):
        return kind(**fields)
    if is_model(kind):
        return _build_model(kind, fields, state)
    made = _built(kind, _completed(kind, fields))
    if "own" in state:
        made.__dict__.update(state["own"])
    return made


def _completed(kind: type, fields: dict[str, Any]) -> dict[str, Any]:
    names, defaults = field_names(kind) or (), _defaults(kind)
    if unknown := [name for name in fields if name not in names]:
        raise ValueError(f"{kind.__qualname__} has no field {unknown[0]!r} any more")
    if missing := [name for name in names if name not in fields and name not in defaults]:
        raise ValueError(f"{kind.__qualname__} has a field {missing[0]!r} now, which was not saved")
    return {name: fields[name] if name in fields else defaults[name]() for name in names}


def _built(kind: Any, fields: dict[str, Any]) -> Any:
    if issubclass(kind, tuple):
        return tuple.__new__(kind, fields.values())
    if issubclass(kind, msgspec.Struct):
        made: Any = kind(**fields)
        for name, field in fields.items():  # whatever its __post_init__ made of them
            msgspec.structs.force_setattr(made, name, field)
        return made
    made = kind.__new__(kind)
    for name, field in fields.items():
        object.__setattr__(made, name, field)
    return made


def _defaults(kind: Any) -> dict[str, Any]:
    """Return a function for each field that has a default, which makes it."""
    made: dict[str, Any] = {}
    if dataclasses.is_dataclass(kind):
        for field in dataclasses.fields(kind):
            if field.default_factory is not dataclasses.MISSING:
                made[field.name] = field.default_factory
            elif field.default is not dataclasses.MISSING:
                made[field.name] = functools.partial(_same, field.default)
    elif issubclass(kind, msgspec.Struct):
        given = kind.__struct_defaults__
        for name, it in zip(kind.__struct_fields__[-len(given) :], given, strict=False):
            if type(it).__name__ == "Factory":
                made[name] = it.factory
            elif it is not msgspec.NODEFAULT:
                made[name] = functools.partial(_same, it)
    elif issubclass(kind, tuple):
        made = {name: functools.partial(_same, it) for name, it in kind._field_defaults.items()}
    return made


def _same(value: Any) -> Any:
    return value


def _build_model(kind: Any, fields: dict[str, Any], state: dict[str, Any]) -> Any:
    declared = {name: fields[name] for name in kind.model_fields if name in fields}
    extra = {name: field for name, field in fields.items() if name not in declared}
    if extra and kind.model_config.get("extra") != "allow":
        raise ValueError(f"{kind.__qualname__} has no field {next(iter(extra))!r} any more")
    for name, info in kind.model_fields.items():
        if name not in declared:
            if info.is_required():
                raise ValueError(
                    f"{kind.__qualname__} has a field {name!r} now, which was not saved"
                )
            declared[name] = _default_of(info, declared)
    made = kind.__new__(kind)
    given = set(state["set"]) if "set" in state else set(fields)
    object.__setattr__(made, "__dict__", declared | state.get("own", {}))
    object.__setattr__(made, "__pydantic_fields_set__", given)
    allows = kind.model_config.get("extra") == "allow"
    object.__setattr__(made, "__pydantic_extra__", extra if allows else None)
    object.__setattr__(made, "__pydantic_private__", _private(kind, declared, state))
    return made


def _default_of(info: Any, fields: dict[str, Any]) -> Any:
    """Return the default of a model's field or private attribute, given these other fields."""
    if info.default_factory is None:
        return info.get_default()
    if getattr(info, "default_factory_takes_validated_data", False):
        return info.default_factory(fields)
    return info.default_factory()  # what `get_default` does differs between versions of pydantic


def _private(kind: Any, fields: dict[str, Any], state: dict[str, Any]) -> dict[str, Any] | None:
    """Return a model's private attributes: those saved, and the class's defaults for the others."""
    attributes = kind.__private_attributes__
    if not attributes:
        return None
    private = dict(state.get("private", {}))
    for name, attribute in attributes.items():
        if name not in private:
            default = _default_of(attribute, fields)
            if type(default).__name__ != "PydanticUndefinedType":
                private[name] = default
    return private


def default_private(model: Any, name: str) -> Any:
    """Return what a model's class itself gives a private attribute of an instance."""
    attribute = type(model).__private_attributes__.get(name)
    return None if attribute is None else _default_of(attribute, vars(model))


def same(one: Any, other: Any) -> bool:
    """Tell whether two values are equal and of equal types, all the way down."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[name], other[name]) for name in one)
    if (fields := fields_of(one)) is not None:
        return same(fields, fields_of(other)) and same(state_of(one), state_of(other))
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)
