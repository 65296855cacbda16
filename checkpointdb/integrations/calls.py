"""Requests as direct calls of steps: looked up, made once, saved. Knows no proxy.

The parts of `httpx` that it uses are those of the request that it is given: `httpx2` has them too.
"""

from __future__ import annotations

import asyncio
import functools
import threading
import time
from collections.abc import Callable
from typing import Any

from ..engine.follow import ITS_CODE
from ..engine.keywords import StepOptions
from ..errors import BudgetExceeded
from ..loops.direct import MISS
from ..policy import every
from ..step import Step
from ..store import Store
from ..values.keys import key_of
from .answers import Reading, UpstreamError, content_of, events_of, is_stream
from .live import Live
from .prices import Prices, counts_of
from .recipes import Asked


class Call:
    """What a step is given besides its row: the request itself, with its credentials.

    Args:
        request: of `httpx` or `httpx2`.
        send: a transport's method that sends it.
        ask: what it asks.
        live: passes the answer on.
    """

    def __init__(self, request: Any, send: Callable[[Any], Any], ask: Asked, live: Live) -> None:
        self._request, self._send, self._ask, self._live = request, send, ask, live

    def make(self) -> dict[str, Any]:
        """Send the request, pass the answer on as it comes, and return it whole."""
        response = self._send(self._request)
        try:
            reading = self._open(response)
            for chunk in response.iter_bytes():
                self._take(reading, chunk)
                if reading.is_whole:
                    break
        finally:
            response.close()
        return self._named(reading.result())

    async def amake(self) -> dict[str, Any]:
        """Do as `make`, in a task."""
        response = await self._send(self._request)
        try:
            reading = self._open(response)
            async for chunk in response.aiter_bytes():
                self._take(reading, chunk)
                if reading.is_whole:
                    break
        finally:
            await response.aclose()
        return self._named(reading.result())

    def _named(self, answer: dict[str, Any]) -> dict[str, Any]:
        """Add the model that was asked for: its price is known by it."""
        return answer | {"model": self._ask.model}

    def _open(self, response: Any) -> Reading:
        reading = Reading(response.status_code, response.headers.multi_items(), self._ask.ends)
        self._live.how = "miss"
        self._live.open(reading.status, reading.headers, reading.is_stream)
        return reading

    def _take(self, reading: Reading, chunk: bytes) -> None:
        for event in reading.feed(chunk):
            self._live.add(event)


def _call(row: Any, call: Call) -> dict[str, Any]:  # noqa: ARG001 - it is the identity
    return call.make()


async def _acall(row: Any, call: Call) -> dict[str, Any]:  # noqa: ARG001
    return await call.amake()


class Calls:
    """Direct calls of a step for each model and path, on one store; safe from threads and tasks.

    Equal requests in flight share one call, and a call whose clients have left is saved.
    Its lock is held while a table of its own is asked or changed.

    Args:
        store: open, or its path.
        version: of all its steps.
        prices: what tokens cost, if that is known.
        max_cost: dollars that all steps of the store may cost, over all runs.
        record: True to make each call, and put its answer in the place of a saved one.
        options: of the steps.
    """

    def __init__(
        self, store: Any, version: int | str, prices: Prices | None, max_cost: float | None,
        record: bool, options: StepOptions,
    ) -> None:  # fmt: skip
        if max_cost is not None and prices is None:
            raise ValueError("max_cost needs prices: what a token costs, or a table of models")
        self._given, self._version, self._prices = store, version, prices
        self._max_cost, self._record, self._options = max_cost, record, options
        self._lock = threading.RLock()
        self._store: Store | None = None
        self._steps = dict[tuple[str, bool], Step[..., Any]]()
        self._live = dict[str, Live]()
        self._tasks = set[asyncio.Task[None]]()

    @property
    def is_replay(self) -> bool:
        """Whether nothing is called."""
        return bool(self._options.get("replay"))

    def key(self, ask: Asked) -> str:
        """Return the key of a request."""
        return key_of(ask.name, self._version, ask.row)

    def step(self, name: str, is_async: bool) -> Step[..., Any]:
        """Return the step of a model and path, made at its first request."""
        with self._lock:
            step = self._steps.get((name, is_async))
            if step is None:
                options: StepOptions = {
                    "save": every(rows=1), "on_error": "record", "ledger": True,
                    "usage": counts_of, **self._options, "name": name, "using": ("call",),
                    "on_change": "reuse", "ignore": (ITS_CODE,),
                }  # fmt: skip
                if self._prices is not None:
                    options["cost"] = self._prices.cost
                fn = _acall if is_async else _call
                step = Step(fn, self.store, version=self._version, **options)
                self._steps[name, is_async] = step
            return step

    @property
    def store(self) -> Any:
        """The store, opened once: many steps share it."""
        with self._lock:
            if isinstance(self._given, Store):
                return self._given
            if self._store is None or self._store.closed:
                self._store = Store(self._given, readonly=self.is_replay)
            return self._store

    def close(self) -> None:
        """Close a store that is ours, with what is pending saved."""
        with self._lock:
            store, self._store = self._store, None
            self._steps.clear()
        if store is not None:
            store.close()

    # --- a request

    def join(self, ask: Asked) -> tuple[Live, str, bool]:
        """Return the answer that is on its way, its key, and whether it is to be begun."""
        key = self.key(ask)
        with self._lock:
            live = self._live.get(key)
            if live is not None:
                return live, key, False
            live = self._live[key] = Live()
            return live, key, True

    def begin(self, request: Any, send: Callable[[Any], Any], ask: Asked) -> tuple[Live, str]:
        """Have a request answered in a thread, or here if it asks for no stream."""
        live, key, is_new = self.join(ask)
        if is_new:
            answer = functools.partial(self._answer, Call(request, send, ask, live), ask, live, key)
            if ask.streams:  # its client may leave in its middle, and it is read to its end
                threading.Thread(target=answer, name="checkpointdb-stream").start()
            else:
                answer()
        return live, "joined" if not is_new else ""

    async def abegin(
        self, request: Any, send: Callable[[Any], Any], ask: Asked
    ) -> tuple[Live, str]:
        """Have a request answered in a task that nobody's leaving ends."""
        live, key, is_new = self.join(ask)
        if is_new:
            call = Call(request, send, ask, live)
            task = asyncio.create_task(self._aanswer(call, ask, live, key))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return live, "joined" if not is_new else ""

    def _answer(self, call: Call, ask: Asked, live: Live, key: str) -> None:
        error: BaseException | None = None
        try:
            self._check_budget(ask)
            step = self.step(ask.name, False)
            if self._record:
                start = time.perf_counter()
                self._put(ask, call.make(), start, False)
            self._give_out(live, step(ask.row, call=call))
        except BaseException as problem:  # noqa: BLE001 - raised to all who wait for it
            error = problem
        finally:
            self._over(live, key, error)

    async def _aanswer(self, call: Call, ask: Asked, live: Live, key: str) -> None:
        error: BaseException | None = None
        try:
            if self._max_cost is not None:
                await asyncio.to_thread(self._check_budget, ask)
            step = self.step(ask.name, True)
            if self._record:
                start = time.perf_counter()
                await asyncio.to_thread(self._put, ask, await call.amake(), start, True)
            self._give_out(live, await step(ask.row, call=call))
        except BaseException as problem:  # noqa: BLE001 - raised to all who wait for it
            error = problem
        finally:
            self._over(live, key, error)

    def _over(self, live: Live, key: str, error: BaseException | None) -> None:
        if isinstance(error, UpstreamError) and live.is_stream:  # what came after its last event
            live.add(error.content[sum(map(len, live.chunks)) :])
        with self._lock:
            del self._live[key]
        live.end(error)

    def _put(self, ask: Asked, answer: Any, start: float, is_async: bool) -> None:
        """Save an answer over the saved one."""
        seconds = time.perf_counter() - start
        self.step(ask.name, is_async).put(ask.row, answer, seconds=seconds, replace=True)

    def _give_out(self, live: Live, answer: dict[str, Any]) -> None:
        """Pass on what has not been: all of a saved answer, the last event of a stream."""
        content, streams = content_of(answer), is_stream(answer)
        live.is_saved = True
        if live.how == "hit":
            live.open(answer["status"], list(answer["headers"].items()), streams)
        events = list(events_of(content)) if streams else [content]
        for event in events[len(live.chunks) :]:
            live.add(event)

    def _check_budget(self, ask: Asked) -> None:
        """Raise if a call would have to be made and nothing is left, or its price is not known.

        Raises:
            BudgetExceeded: what is saved is given out still.
        """
        if self._max_cost is None or self._prices is None:
            return
        spent = sum(step.cost for step in self.store.steps())
        problem = ""
        if spent >= self._max_cost:
            problem = (
                f"${spent:.6g} of the budget of ${self._max_cost:.6g} are spent: raise --max-cost "
                "(max_cost=) to go on; saved answers are given out still"
            )
        elif not self._prices.knows(ask.model):
            problem = f"there is a budget and no price for the model {ask.model!r}: add one"
        if problem and self.step(ask.name, True).get(ask.row) is MISS:
            raise BudgetExceeded(problem, spent, self._max_cost)

    async def drain(self) -> None:
        """Wait until every call is answered and saved."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))
