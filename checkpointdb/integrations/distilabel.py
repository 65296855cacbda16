"""Distilabel's generations as records: `class MyLLM(Checkpointed, OpenAILLM)`. Knows LLM classes.

Each answer is saved as it returns, in the process of the step that pays; nothing is pickled.
"""

from __future__ import annotations

import asyncio
import inspect
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pydantic_core
from distilabel.models.llms.base import LLM, AsyncLLM, merge_responses
from pydantic import Field, PrivateAttr

from .. import EncodeError, Step, every
from ..engine.follow import ITS_CODE

# fields of LLM classes that make other answers to the same input; the rest is transport
_SHAPING = (
    "structured_output", "revision", "quantization", "dtype", "torch_dtype", "chat_template",
    "chat_format", "adapter_path", "seed", "use_magpie_template", "magpie_pre_query_template",
)  # fmt: skip


class Checkpointed(LLM):  # type: ignore[misc]
    """Save each generation of the LLM class that stands behind it, and give out what is saved.

    A generation is durable when it returns, unless `save=` says otherwise. Equal inputs are
    separate samples, in all replicas. An output with a None in it is passed on, and is a failure
    in the store: the next run asks again. If its pipeline is killed, the step's process saves and
    ends.

    Attributes:
        store: path of the store.
        version: of the generations; under another one all are computed again.
        step_name: the step's name in the store; the name of the class unless given.
        save_policy: given as `save=`, when to commit: `every(rows=1)` unless given.
        meta: anything JSON holds, kept with the runs.
    """

    store: str
    version: int | str
    step_name: str | None = None
    # LLMs have a method `save`; and what Distilabel keeps of the fields must be JSON
    save_policy: Any = Field(default=every(rows=1), alias="save", exclude=True)
    meta: Any = None
    _step: Any = PrivateAttr(None)

    @property
    def generate_parameters(self) -> list[inspect.Parameter]:
        """What a pipeline may set: the parameters of the class behind."""
        if isinstance(self, AsyncLLM):
            return list(super().generate_parameters)
        return list(inspect.signature(super().generate).parameters.values())

    def generate(self, inputs: list[Any], num_generations: int = 1, **kwargs: Any) -> list[Any]:
        """Return the outputs of some inputs; an engine gets those that are not saved, at once."""
        asked = partial(super().generate, num_generations=num_generations, **kwargs)
        if isinstance(self, AsyncLLM):
            return list(asked(inputs=inputs))
        return _run(self._saved(inputs, num_generations, kwargs, _Batch(asked).ask))

    async def _agenerate(
        self, inputs: list[Any], num_generations: int = 1, **kwargs: Any
    ) -> list[Any]:
        each = num_generations if self._num_generations_param_supported else 1
        samples = num_generations // each
        asked = partial(super()._agenerate, num_generations=each, **kwargs)

        async def ask(one: Any) -> Any:
            return (await asked(inputs=[one]))[0]

        many = [one for one in inputs for _ in range(samples)]
        outputs = await self._saved(many, each, kwargs, ask)
        return outputs if samples == 1 else list(merge_responses(outputs, n=samples))

    async def _saved(self, inputs: list[Any], n: int, parameters: Any, ask: Any) -> list[Any]:
        request = {"model": self.model_name, "num_generations": n, "parameters": parameters}
        for name in _SHAPING:
            field, value = type(self).model_fields.get(name), getattr(self, name, None)
            if field is not None and value not in (None, field.default):
                request[name] = value
        rows = [_plain(request | {"input": one}) for one in inputs]
        calls = map(self._opened(), rows, (partial(ask, one) for one in inputs))
        outputs = await asyncio.gather(*map(_output, calls), return_exceptions=True)
        for output in outputs:
            if isinstance(output, BaseException):
                raise output
        return outputs

    def _opened(self) -> Step[Any, Any]:
        if self._step is None:
            self._step = Step(
                _generation, self.store, name=self.step_name or type(self).__name__,
                version=self.version, save=self.save_policy, meta=self.meta, using=("ask",),
                duplicates="separate", on_error="record", valid=_has_texts,
                on_change="reuse", ignore=(ITS_CODE,),
            )  # fmt: skip
            if multiprocessing.parent_process() is not None:
                ends = partial(_end_with_parent, os.getppid(), self._step)
                threading.Thread(target=ends, name="checkpointdb-parent", daemon=True).start()
        step: Step[Any, Any] = self._step
        return step

    def unload(self) -> None:
        """Save what is pending and close the store."""
        step, self._step = self._step, None
        if step is not None:
            step.store.close()
        super().unload()


class _Batch:
    """Calls of one turn of the event loop, made together."""

    def __init__(self, generate: Callable[..., list[Any]]) -> None:
        self._generate, self._inputs = generate, list[Any]()
        self._outputs: asyncio.Task[list[Any]]

    async def ask(self, input: Any) -> Any:
        if not self._inputs:
            self._outputs = asyncio.create_task(self._all())
        outputs, i = self._outputs, len(self._inputs)
        self._inputs.append(input)
        return (await outputs)[i]

    async def _all(self) -> list[Any]:
        inputs, self._inputs = self._inputs, []
        return self._generate(inputs=inputs)


def _run(saving: Coroutine[Any, Any, list[Any]]) -> list[Any]:
    """Run it to its end; beside the loop that runs here, if a mixture asks its aggregator."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(saving)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, saving).result()


async def _generation(row: Any, ask: Any) -> Any:  # noqa: ARG001 - the row is the key
    return await ask()


async def _output(call: Any) -> Any:
    """Return what a call gave, be it saved or not: of a refusal, and of what no store can hold."""
    try:
        return await call
    except (EncodeError, ValueError) as error:
        output = getattr(error, "result", None)
        if not isinstance(output, dict):
            raise
        return output


def _has_texts(output: Any) -> bool:
    return all(it is not None for it in output["generations"])


def _plain(row: Any) -> Any:
    """Return a request as JSON has it: of a class its schema, and of a secret nothing."""
    return pydantic_core.to_jsonable_python(row, fallback=lambda it: it.model_json_schema())


def _end_with_parent(parent: int, step: Step[Any, Any]) -> None:
    """Save and end this process once its pipeline is gone: nobody takes what it would pay for."""
    while os.getppid() == parent:
        time.sleep(0.1)
    step.flush()
    os._exit(1)
