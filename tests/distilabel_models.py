"""Distilabel's classes of LLMs, and ours in front of them; Distilabel warns when it is imported."""

from __future__ import annotations

from distilabel.models.llms import OpenAILLM
from distilabel.models.llms.base import LLM, AsyncLLM

from checkpointdb.integrations.distilabel import Checkpointed


def output(*texts):
    return {"generations": list(texts), "statistics": {"input_tokens": [1], "output_tokens": [2]}}


class Engine(LLM):
    """Answers a whole batch in one call, as vLLM does; keeps what it was asked."""

    asked: list = []
    gone: bool = False
    more: dict = {}

    @property
    def model_name(self):
        return "engine"

    def generate(self, inputs, num_generations=1, temperature: float = 1.0):
        if self.gone:
            raise ConnectionError("gone")
        first = sum(map(len, self.asked))
        self.asked.append([chat[0]["content"] for chat in inputs])
        return [output(*[f"{first + i}.{n}" for n in range(num_generations)]) | self.more
                for i, _ in enumerate(inputs)]  # fmt: skip


class Single(AsyncLLM):
    """Gives one generation a call, and none at all to "refused" the first time."""

    _num_generations_param_supported = False
    asked: list = []

    @property
    def model_name(self):
        return "single"

    async def agenerate(self, input, temperature: float = 1.0):
        text = input[0]["content"]
        if text == "broken":
            raise ConnectionError("gone")
        self.asked.append(text)
        is_refused = text == "refused" and self.asked.count(text) == 1
        return output(None if is_refused else f"answer {len(self.asked)}")


class SavedEngine(Checkpointed, Engine):
    """A batch engine, checkpointed."""


class SavedSingle(Checkpointed, Single):
    """An asynchronous LLM, checkpointed."""


class SavedOpenAI(Checkpointed, OpenAILLM):
    """OpenAI's models, checkpointed."""
