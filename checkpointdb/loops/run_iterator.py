"""A run as the user holds it: an iterator with a report. Knows nothing of how it is driven."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from ..events import Report
from .session import Session

R = TypeVar("R", covariant=True)


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
    read, up to 256 rows ahead, gets that result. What any other source gave must stay as it is
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

    def __iter__(self) -> Iterator[R]:
        if self._iterator is None:
            if self._drive is None:
                raise TypeError("this run is asynchronous: iterate with `async for`")
            self._iterator = self._drive()
            self._session.driven_by(self._iterator)
        iterator: Iterator[R] = self._iterator
        return iterator

    def __next__(self) -> R:
        return next(iter(self))

    def __aiter__(self) -> AsyncIterator[R]:
        if self._iterator is None:
            if self._adrive is None:
                raise TypeError("this run is synchronous: iterate with `for`, or use arun()")
            self._iterator = self._adrive()
        iterator: AsyncIterator[R] = self._iterator
        return iterator

    async def __anext__(self) -> R:
        return await anext(aiter(self))

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

    def close(self) -> None:
        """End the run: calls in flight are awaited, whatever returned is committed. Repeatable."""
        if hasattr(self._iterator, "close"):
            self._iterator.close()
        self._session.close()

    async def aclose(self) -> None:
        """End an asynchronous run, as `close` does."""
        if hasattr(self._iterator, "aclose"):
            await self._iterator.aclose()
        self._session.close()
