"""The decorator: names and versions a function. Knows how users call; the run does the rest."""

from __future__ import annotations

import functools
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ParamSpec, Self, TypeVar, Unpack

import msgspec

from . import interrupts
from . import plan as plans
from .engine.arguments import Args, Binder, call
from .engine.callables import (
    bare,
    check_function,
    check_name,
    check_version,
    checked_rows,
    has_each,
    is_async,
    is_method,
    method_error,
    namespace_of,
    return_type,
    row_name,
    type_of_each,
)
from .engine.job import Job, Spec
from .engine.keywords import OnChange, StepOptions
from .engine.on_change import accept
from .engine.options import Options, step_settings
from .engine.partials import bound_in_key
from .file.opened import Durability
from .loops import sync
from .loops.direct import Direct, StoreOrPath, Where
from .loops.tracebacks import hide_ours
from .loops.travel import arrive, parts_of
from .plan import Plan, Why
from .policy import SavePolicy
from .rows import Rows
from .runs import Runs
from .store import Store
from .tabular import Tabular
from .values.codec import Codec
from .values.keys import Keyer, Version, depends_digest, describe_recipe

P = ParamSpec("P")
R = TypeVar("R", covariant=True)
T = TypeVar("T")


class Step(Runs[P, R], Rows[P, R], Tabular):
    """A function with a name and a version whose results are kept in a store; made by `step`.

    Call it like the function, for one row; `run` and `arun` pass it over many. `__wrapped__` is
    the function itself. Nothing is opened before the first use.
    """

    def __init__(
        self,
        fn: Callable[P, R],
        store: StoreOrPath,
        *,
        version: Version,
        **options: Unpack[StepOptions],
    ) -> None:
        settings = step_settings("step", options)
        check_function(fn)
        self._look_like(fn)  # first, so that what is ours replaces what is the function's
        self.name = check_name(fn, settings.name)
        self.__name__: str = getattr(self, "__name__", self.name)
        self.version = check_version(version)
        self._settings = settings
        self._keyer = Keyer(
            self.name, version, settings.key, settings.input, depends_digest(settings.depends),
            bound_in_key(fn, settings.using), row_name(fn, settings.using), settings.redactor,
        )  # fmt: skip
        self._key_recipe = describe_recipe(settings.key, settings.depends or ())
        self._save, self._meta = settings.policy, settings.meta
        self._where = Where(
            store, settings.durability, settings.replay, settings.remote, settings.ship
        )
        self._binder = Binder(fn, settings.using)
        self._method = is_method(fn)
        self.__wrapped__ = fn
        interrupts.watch()
        self._parts = parts_of(self, fn, version, self._options())

    def _look_like(self, fn: Any) -> None:
        """Take on the name, signature and attributes of `fn`, except those that a step has."""
        functools.update_wrapper(self, fn, updated=())
        for name, value in getattr(fn, "__dict__", {}).items():
            if not hasattr(Step, name):
                setattr(self, name, value)

    # `inspect` looks for these three to see an `async def`, and asyncio and frameworks ask it. They
    # are not in __dict__, nor is a mark: functools.wraps would give it to a plain wrapper too.
    __defaults__ = __kwdefaults__ = None

    @property
    def __code__(self) -> types.CodeType:
        if not is_async(self.__wrapped__):
            raise AttributeError("__code__")
        code: types.CodeType = bare(self.__wrapped__).__code__
        return code

    def __repr__(self) -> str:
        return f"<step {self.name!r} version {self.version!r} in {self._where.given!r}>"

    def __reduce_ex__(self, protocol: typing.SupportsIndex) -> Any:
        if protocol.__index__() < 4:  # they have no way to name an attribute of a step
            return getattr(self, "__qualname__", self.name)
        identity = self.name, self.version, self._keyer.depends
        return arrive, (type(self), self._parts, self.path, identity)

    def _rebind(self, fn: Callable[..., Any]) -> None:
        """Call `fn` from here on: the same function, with its present globals."""
        self.__wrapped__ = fn
        self._binder = Binder(fn, self._settings.using)
        for name in ("_spec", "_batch_spec"):
            self.__dict__.pop(name, None)

    def __get__(self, instance: object, owner: type | None = None) -> Self:
        if instance is not None and self._method:
            raise self._no_method()
        return self

    def _no_method(self) -> TypeError:
        return method_error(self.__wrapped__, f"{self._where.given!r}, version={self.version!r}")

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Return the saved result of this row, or call the function and keep what it returns.

        The result is pending until the save policy, its timer, `flush()` or the exit of the process
        commits it. Equal calls made at the same time, in threads or tasks, share one computation.
        An async step opens and raises nothing before its `await`, except for wrong arguments.
        """
        __tracebackhide__ = True
        row = self._row(args, kwargs)
        if self._spec.is_async:
            from .loops import asynchronous

            if type(row) is Args:
                self._binder.content(
                    row
                )  # or raise, now: wrong arguments are no matter of an await
            return asynchronous.acall(self._direct, row)  # type: ignore[return-value]
        try:
            result: R = self._direct.do(sync.call, row)
        except BaseException as error:
            hide_ours(error)
            raise
        return result

    def replace(
        self,
        *,
        store: StoreOrPath | None = None,
        save: SavePolicy | None = None,
        durability: Durability | None = None,
        on_change: OnChange | None = None,
        replay: bool | None = None,
    ) -> Step[P, R]:
        """Return the same step with another store or other options; nothing is opened."""
        options = self._options()
        if save is not None:
            options["save"] = save
        if durability is not None:
            options["durability"] = durability
        if on_change is not None:
            options["on_change"] = on_change
        if replay is not None:
            options["replay"] = replay
        where = self._where.again if store is None else store
        if isinstance(where, Store):
            options |= {"remote": None, "ship": None}
        return Step(self.__wrapped__, where, version=self.version, **options)

    def _options(self) -> StepOptions:
        """Return the keywords that make this step again."""
        options: Any = msgspec.structs.asdict(self._settings) | {"name": self.name}
        if isinstance(self._where.given, Store):
            options["durability"] = self._where.given.durability
        return typing.cast("StepOptions", options)

    def plan(self, rows: Iterable[Any], *, given: Mapping[str, Any] | None = None) -> Plan:
        """Say what a run over `rows` would do, before paying: nothing is called or written.

        Args:
            rows: as `run` takes them.
            given: as `run` takes it.
        """
        rows = map(self._binder.with_values(given, None).content, checked_rows(rows, Iterable))
        self._where.bring()
        return plans.plan(
            self.path, self.name, self.version, self._keyer, self._settings, rows,
            self._spec.capture(),
        )  # fmt: skip

    def why(self, /, *args: P.args, **kwargs: P.kwargs) -> Why:
        """Say why this row is a hit or a miss: which part of its key differs from what is saved."""
        return self._why(self._binder.content(self._row(args, kwargs)))

    def _why(self, row: Any) -> Why:
        self._where.bring()
        return plans.why(
            self.path, self.name, self.version, self._keyer, self._key_recipe, row,
            self._spec.capture(),
        )  # fmt: skip

    def accept(self, undo: bool = False) -> int:
        """Accept the saved results of other code as the present code's own; return how many.

        From then on they are no longer stale, until the code changes again. Nothing is copied.

        Args:
            undo: True to take that back; returns how many are stale again.
        """
        return accept(Job(self._opened(), self._spec, self._save), undo)

    @property
    def path(self) -> str:
        """The path of the store, with links resolved; the file need not exist yet."""
        return self._where.path

    def flush(self) -> None:
        """Commit what is pending and make it survive a power cut."""
        self._opened().flush()

    @property
    def store(self) -> Store:
        """The store, opened now if it was not."""
        self._where.is_named = True
        return self._opened()

    def _opened(self) -> Store:
        return self._where.opened()

    @functools.cached_property
    def _direct(self) -> Direct:
        # from Python 3.12 on two threads may come to be here; they must get the same one
        made = Direct(self._where, lambda: self._spec, self._direct_job)
        direct: Direct = self.__dict__.setdefault("_direct", made)
        return direct

    @functools.cached_property
    def _spec(self) -> Spec:
        return self._make_spec(return_type(self.__wrapped__))

    @functools.cached_property
    def _batch_spec(self) -> Spec:
        return self._make_spec(type_of_each(return_type(self.__wrapped__)))

    def _make_spec(self, annotation: Any) -> Spec:
        return Spec(
            fn=functools.partial(call, self.__wrapped__),
            name=self.name,
            version=self.version,
            keyer=self._keyer,
            key_recipe=self._key_recipe,
            codec=Codec(annotation, namespace_of(self.__wrapped__)),
            is_async=is_async(self.__wrapped__),
            binder=self._binder,
            separate=self._settings.duplicates == "separate",
            settings=self._settings,
            inside=self.__wrapped__,
        )

    def _asked(self, store: Store, spec: Spec, options: Options) -> Job:
        job = Job(store, spec, self._save, self._meta, options)
        return job.replaying(self._why) if self._where.is_replayed else job

    def _direct_job(self, store: Store) -> Job:
        """Return what the session of direct calls is asked for."""
        spec = self._spec
        if has_each(annotation := spec.codec.annotation):  # results of `run(batch_size=...)`, too
            each = self._batch_spec.codec
            codec = Codec(annotation, namespace_of(self.__wrapped__), each)
            spec = msgspec.structs.replace(spec, codec=codec)
        if not spec.is_async:
            fn = functools.partial(interrupts.in_the_open, spec.fn)
            spec = msgspec.structs.replace(spec, fn=fn)
        return self._asked(store, spec, self._settings.of_calls)

    def _row(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._method and args and isinstance(args[0], type):  # as classmethod does
            raise self._no_method()
        return args[0] if len(args) == 1 and not kwargs else Args(args, kwargs)
