"""Find the `Step` that STEP on a command line names. Knows imports; no rows and no stores."""

from __future__ import annotations

import builtins
import difflib
import importlib
import importlib.util
import os
import sys
import traceback
from types import ModuleType
from typing import Any

from ..engine.keywords import OnChange
from ..errors import CheckpointError
from ..file.opened import Durability
from ..policy import SavePolicy
from ..step import Step
from ..store import Store


class LoadError(CheckpointError):
    """STEP names nothing that can be run; the message says what there is instead."""


def load(
    where: str,
    *,
    store: str | None = None,
    version: int | str | None = None,
    save: SavePolicy | None = None,
    durability: Durability | None = None,
    on_change: OnChange | None = None,
) -> Step[..., Any]:
    """Return the step that `module:function` or `path/file.py:function` names.

    A plain function becomes a step of its own name; it needs `store` and `version`. For a decorated
    one, the arguments override the decorator. The version cannot: it belongs to the code.

    Raises:
        LoadError: no such file, module or function; the module cannot be imported; options missing.
    """
    found = _find(where)
    if isinstance(found, Step):
        return _overridden(where, found, store, version, save, durability, on_change)
    if store is None or version is None:
        given = {"--store": store, "--version": version}
        missing = [option for option, value in given.items() if value is None]
        raise LoadError(
            f"{where} is a plain function, so {' and '.join(missing)} must be given, for example: "
            f"--store {getattr(found, '__name__', 'rows')}.ckpt --version 1"
        )
    try:
        return Step(
            found, store, version=version, save=save, durability=durability or "power",
            on_change=on_change or "warn",
        )  # fmt: skip
    except (TypeError, ValueError) as error:
        raise LoadError(f"{where}: {error}") from error


def _overridden(
    where: str,
    step: Step[..., Any],
    store: str | None,
    version: int | str | None,
    save: SavePolicy | None,
    durability: Durability | None,
    on_change: OnChange | None,
) -> Step[..., Any]:
    if version is not None:
        raise LoadError(
            f"{where} is decorated with version={step.version!r}: leave out --version, and change "
            "the version in the code to compute its results again"
        )
    if (store or durability) and isinstance(step._where.given, Store):
        raise LoadError(f"{where} has an open Store: leave out --store and --durability")
    return step.replace(store=store, save=save, durability=durability, on_change=on_change)


def look_up(text: str, step: str) -> Any:
    """Return what `text` names: `module:name`, a name in the module of `step`, or a builtin.

    Raises:
        LoadError: there is none of that name.
    """
    home = step.rpartition(":")[0]
    place, _, name = text.rpartition(":")
    if place and place != home:
        found = getattr(_import(place), name, None)
    else:
        found = getattr(sys.modules[_module_name(home)], name, getattr(builtins, name, None))
    if found is None:
        raise LoadError(f"{place or home} has no {name!r}")
    return found


def function_or_field(text: str, step: str) -> Any:
    """Return what `text` names, or the text itself: then it is the name of a field."""
    try:
        return look_up(text, step)
    except LoadError:
        if ":" in text:
            raise
        return text


def _find(where: str) -> Any:
    place, colon, name = where.rpartition(":")
    if not colon or not place or not name:
        raise LoadError(
            f"STEP is module:function or path/file.py:function, not {where!r}"
            + (_available(_import(where)) if os.path.isfile(where) else "")
        )
    module = _import(place)
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part, None)
    if not callable(found) or isinstance(found, type):
        raise LoadError(f"{place} has no function {name!r}{_available(module, name)}")
    return found


def _import(place: str) -> ModuleType:
    is_path = _is_path(place)
    if is_path and not os.path.isfile(place):
        raise LoadError(f"{place}: no such file{_similar_files(place)}")
    directory = os.path.dirname(os.path.abspath(place)) if is_path else os.getcwd()
    if directory not in sys.path:
        sys.path.insert(0, directory)  # as `python path/file.py` does, so that its imports work
    try:
        return _import_file(place) if is_path else importlib.import_module(place)
    except ModuleNotFoundError as error:
        if is_path or not f"{place}.".startswith(f"{error.name}."):
            raise _broken(place, error) from error
        raise LoadError(
            f"no module {error.name!r} here or among the installed packages"
            f"{_similar_files(place + '.py')}"
        ) from error
    except Exception as error:
        raise _broken(place, error) from error


def _is_path(place: str) -> bool:
    return place.endswith(".py") or os.sep in place


def _module_name(place: str) -> str:
    return os.path.splitext(os.path.basename(place))[0] if _is_path(place) else place


def _import_file(path: str) -> ModuleType:
    name = _module_name(path)
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise LoadError(f"{path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and type hints look their module up there
    spec.loader.exec_module(module)
    return module


def _broken(place: str, error: Exception) -> LoadError:
    frames = traceback.extract_tb(error.__traceback__)
    ours = os.path.dirname(os.path.dirname(__file__))
    theirs = [f for f in frames if not f.filename.startswith((ours, "<frozen importlib"))]
    last = theirs[-1] if theirs else None
    line = f" ({last.filename}:{last.lineno})" if last else ""
    if isinstance(error, SyntaxError):
        line = f" ({error.filename}:{error.lineno})"
        error = type(error)(error.msg)
    return LoadError(f"{place} cannot be imported: {type(error).__name__}: {error}{line}")


def _available(module: ModuleType, wanted: str = "") -> str:
    names = [
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and callable(value)
        and not isinstance(value, type)
        and getattr(value, "__module__", None) == module.__name__
    ]
    if not names:
        return "; it defines no function"
    close = difflib.get_close_matches(wanted, names, 1)
    hint = f". Did you mean {close[0]!r}?" if close else "."
    return f"{hint} It defines: {', '.join(sorted(names))}"


def _similar_files(path: str) -> str:
    directory = os.path.dirname(path)
    try:
        files = sorted(name for name in os.listdir(directory or ".") if name.endswith(".py"))
    except OSError:
        return f"; nor is there a directory {directory}"
    close = difflib.get_close_matches(os.path.basename(path), files, 1)
    if close:
        return f". Did you mean {os.path.join(directory, close[0])}?"
    if files:
        shown = ", ".join(files[:8]) + (", …" if len(files) > 8 else "")
        return f". There are: {shown}"
    return ""
