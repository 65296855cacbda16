"""A run as the user holds it: an iterator with a report. Knows nothing of how it is driven."""

from __future__ import annotations

import sys
import warnings
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from ..events import Report
from .session import Session

R = TypeVar("R", covariant=True)
T = TypeVar("T")


class Run(Generic[R]):
    """One pass of a step over rows: an iterator over its results, sync or async.

    Promises: results come in input order, unless `ordered=False`; every result given out is pending
    or committed; however the run ends short of a kill (exhausted, closed, forgotten, an exception,
    the first Ctrl-C, SIGTERM, exit of the process), all that returned is committed first, and calls
    in flight are awaited and saved. A crash costs at most the save policy's loss window plus the
    calls in flight. Memory is bounded by the policy, the concurrency and a read-ahead of 1,024
    rows, which grows only while rows are done in microseconds, or are a list.

    Rows that change: with one call at a time, the loop may add rows to a list, and change or
    remove rows of it that are still to come. A row is checked just before it is paid for, and is
    looked up again if it changed. A hit is not checked: a row that had a saved result when it was
    read, up to 256 rows ahead, gets that result. A row from any other source must stay as it is
    until its result is there.
    """

    def __init__(
        self,
        session: Session,
        drive: Callable[[], Iterator[Any]] | None = None,
        adrive: Callable[[], AsyncIterator[Any]] | None = None,
    ) -> None:
        self._session, self._drive, self._adrive = session, drive, adrive
        self._iterator: Any = None
        self._closed = False
        # not __del__: a Ctrl-C that arrives in one is lost, and every run would have it
        self._unused = weakref.finalize(self, _warn_unused, session.step, *_users_line())

    def __repr__(self) -> str:
        report = self._session.report()
        if self._iterator is None:
            state = "closed before it was started" if self._closed else "not started"
        else:
            state = "ended" if self._has_ended else "running"
            state += (
                f", {report.rows:,} rows: {report.hits:,} hits, {report.computed:,} computed, "
                f"{report.failed:,} failed"
            )
        return f"<run of {self._session.step}: {state}>"

    def _repr_html_(self) -> str:
        from .. import markup

        total = self._session.total()
        rows = f"of {total:,} rows" if total is not None else ""
        return markup.facts(f"{self!r}"[1:-1].partition(",")[0], self.report.in_words(rows))

    def __len__(self) -> int:
        """Return how many results there are in all, if the rows know how many they are."""
        total = self._session.total()
        if total is None:
            raise TypeError("this run has no length: its rows cannot say how many they are")
        return total

    def __bool__(self) -> bool:
        return True  # a run over no rows is a run

    def __iter__(self) -> Iterator[R]:
        self._refuse_another_loop()
        return self._begun()

    def __next__(self) -> R:
        __tracebackhide__ = True
        if self._closed and self._iterator is None:
            raise StopIteration
        return next(self._begun())

    def _begun(self) -> Iterator[R]:
        if self._iterator is None:
            self._unused.detach()
            if self._drive is None:
                raise TypeError("this run is asynchronous: iterate with `async for`")
            self._iterator = self._drive()
            self._session.driven_by(self._iterator)
        iterator: Iterator[R] = self._iterator
        return iterator

    def __aiter__(self) -> AsyncIterator[R]:
        self._refuse_another_loop()
        return self._abegun()

    async def __anext__(self) -> R:
        __tracebackhide__ = True
        if self._closed and self._iterator is None:
            raise StopAsyncIteration
        return await anext(self._abegun())

    def _abegun(self) -> AsyncIterator[R]:
        if self._iterator is None:
            self._unused.detach()
            if self._adrive is None:
                raise TypeError("this run is synchronous: iterate with `for`, or use arun()")
            self._iterator = self._adrive()
        iterator: AsyncIterator[R] = self._iterator
        return iterator

    @property
    def is_synchronous(self) -> bool:
        """Whether it is iterated with `for` (made by `run`), not `async for` (made by `arun`)."""
        return self._drive is not None

    @property
    def _has_ended(self) -> bool:
        """Whether no result will come any more: exhausted, failed or closed."""
        if self._iterator is None:
            return self._closed
        kind = "ag_frame" if hasattr(self._iterator, "ag_frame") else "gi_frame"
        return getattr(self._iterator, kind) is None

    def _refuse_another_loop(self) -> None:
        if self._has_ended:
            raise RuntimeError(
                f"this run of {self._session.step} has ended and gives no more results: "
                "call run() again, where saved results are hits, or keep them in a list"
            )

    def items(self: Run[T]) -> Run[tuple[Any, T]]:
        """Return this run, giving out pairs of row and result instead of results alone.

        Each row is the object that the source gave, even with `ordered=False`.

        Raises:
            RuntimeError: its loop has begun.
        """
        self._refuse_another_loop()
        if self._iterator is not None:
            raise RuntimeError("items() says what a run gives out: call it before its loop begins")
        self._session.give_pairs()
        return self  # type: ignore[return-value]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None and hasattr(self._iterator, "throw"):
            try:
                self._iterator.throw(error)  # the run ends by what ended the body, and says so
            except BaseException as raised:
                if raised is not error:
                    raise
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    @property
    def report(self) -> Report:
        """Counts so far; final once the run has ended."""
        return self._session.report()

    @property
    def paused(self) -> float:
        """Seconds for which all calls still wait, by `pause_on=`; 0 if they do not."""
        return self._session.paused()

    @property
    def stale(self) -> int:
        """How many saved results of the step other code had computed when the run began."""
        return self._session.stale

    def close(self) -> None:
        """End the run: calls in flight are awaited, whatever returned is committed. Repeatable."""
        self._closed = True
        self._unused.detach()
        if hasattr(self._iterator, "close"):
            self._iterator.close()
        self._session.close()

    async def aclose(self) -> None:
        """End an asynchronous run, as `close` does."""
        self._closed = True
        self._unused.detach()
        if hasattr(self._iterator, "aclose"):
            await self._iterator.aclose()
        self._session.close()


def _warn_unused(step: str, file: str, line: int) -> None:
    warnings.warn_explicit(
        f"a run of {step} was never iterated, so nothing was computed: loop over it, or put "
        "list() around it",
        RuntimeWarning,
        file,
        line,
    )


def _users_line() -> tuple[str, int]:
    """Return file and line of the innermost caller outside of this package."""
    frame, package = sys._getframe(1), __name__.partition(".")[0] + "."
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(package):
        frame = frame.f_back
    return frame.f_code.co_filename, frame.f_lineno
