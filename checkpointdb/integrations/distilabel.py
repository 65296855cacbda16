"""Distilabel's generations as records: `class MyLLM(Checkpointed, OpenAILLM)`. Knows LLM classes.

Each answer is saved as it returns, in the process of the step that pays; nothing is pickled.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import pydantic_core
from distilabel.models.llms.base import LLM, AsyncLLM, merge_responses
from pydantic import Field, PrivateAttr

from .. import Failed, Step, args, every

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
        asked = functools.partial(super().generate, num_generations=num_generations, **kwargs)
        if isinstance(self, AsyncLLM):
            return list(asked(inputs=inputs))
        return asyncio.run(self._saved(inputs, num_generations, kwargs, _Batch(asked).ask))

    async def _agenerate(
        self, inputs: list[Any], num_generations: int = 1, **kwargs: Any
    ) -> list[Any]:
        each = num_generations if self._num_generations_param_supported else 1
        samples = num_generations // each
        asked = functools.partial(super()._agenerate, num_generations=each, **kwargs)

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
        calls = [_Call(ask, one) for one in inputs]
        rows = [args(_plain(request | {"input": one.input}), call=one) for one in calls]
        outputs = await self._opened().amany(rows)
        return [
            call.outcome(output) if isinstance(output, Failed) else output
            for call, output in zip(calls, outputs, strict=True)
        ]

    def _opened(self) -> Step[Any, Any]:
        if self._step is None:
            self._step = Step(
                _generation, self.store, name=self.step_name or type(self).__name__,
                version=self.version, save=self.save_policy, meta=self.meta, using=("call",),
                duplicates="separate", on_error="record",
            )  # fmt: skip
            if multiprocessing.parent_process() is not None:
                ends = functools.partial(_end_with_parent, os.getppid(), self._step)
                threading.Thread(target=ends, name="checkpointdb-parent", daemon=True).start()
        step: Step[Any, Any] = self._step
        return step

    def unload(self) -> None:
        """Save what is pending and close the store."""
        step, self._step = self._step, None
        if step is not None:
            step.store.close()
        super().unload()


class _Call:
    """One call and what became of it: Distilabel gets its own exceptions and outputs, unsaved."""

    def __init__(self, ask: Any, input: Any) -> None:
        self.ask, self.input = ask, input
        self.output: Any = None
        self.error: Exception | None = None

    async def __call__(self) -> Any:
        try:
            self.output = await self.ask(self.input)
        except Exception as error:
            self.error = error
            raise
        if any(it is None for it in self.output["generations"]):
            raise ValueError("the model gave no text: a generation is None")
        return self.output

    def outcome(self, failed: Failed) -> Any:
        if self.output is None:
            raise self.error or RuntimeError(f"{failed.error_type}: {failed.message}")
        return self.output


class _Batch:
    """Calls of one turn of the event loop, made together."""

    def __init__(self, generate: Callable[..., list[Any]]) -> None:
        self._generate, self._waiting = generate, list[tuple[Any, asyncio.Future[Any]]]()

    async def ask(self, input: Any) -> Any:
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._flush)
        self._waiting.append((input, asyncio.get_running_loop().create_future()))
        return await self._waiting[-1][1]

    def _flush(self) -> None:
        batch, self._waiting = self._waiting, []
        try:
            outputs = self._generate(inputs=[input for input, _ in batch])
        except Exception as error:  # noqa: BLE001 - it is that of each call
            for _, future in batch:
                future.set_exception(error)
            return
        for (_, future), output in zip(batch, outputs, strict=True):
            future.set_result(output)


async def _generation(row: Any, call: Any) -> Any:  # noqa: ARG001 - the row is the key
    return await call()


def _plain(row: Any) -> Any:
    """Return a request as JSON has it: of a class its schema, and of a secret nothing."""
    return pydantic_core.to_jsonable_python(row, fallback=lambda it: it.model_json_schema())


def _end_with_parent(parent: int, step: Step[Any, Any]) -> None:
    """Save and end this process once its pipeline is gone: nobody takes what it would pay for."""
    while os.getppid() == parent:
        time.sleep(0.1)
    step.flush()
    os._exit(1)
