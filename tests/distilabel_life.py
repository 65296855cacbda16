"""One life of a Distilabel pipeline against a local provider, to be killed in the middle."""

from __future__ import annotations

import json
import os
import sys
import traceback
from typing import Any

from distilabel.models.llms import OpenAILLM
from distilabel.pipeline import Pipeline
from distilabel.steps import LoadDataFromDicts, StepResources
from distilabel.steps.tasks import TextGeneration

from checkpointdb.integrations.distilabel import Checkpointed


class Saved(Checkpointed, OpenAILLM):
    """OpenAI's models, checkpointed."""


def llm(life: dict[str, Any], model: str) -> OpenAILLM:
    options = {"model": model, "base_url": life["url"], "api_key": "none", "max_retries": 0}
    if life["kind"] == "adapter":
        return Saved(**options, store=life["store"], version=1)
    return OpenAILLM(**options)


def live(life: dict[str, Any]) -> None:
    """Run the pipeline and write the generations, in order, when it ends."""
    rows = [{"instruction": it, "id": i} for i, it in enumerate(life["prompts"])]
    with Pipeline(name="matrix", cache_dir=life["cache"]) as pipeline:
        last = LoadDataFromDicts(data=rows, batch_size=10)
        for i in range(life.get("steps", 1)):
            task = TextGeneration(
                name=f"text_{i}", llm=llm(life, f"paid-{i}"), input_batch_size=10,
                num_generations=life.get("n", 1), output_mappings={"generation": f"answer_{i}"},
                resources=StepResources(replicas=life.get("replicas", 1)),
            )  # fmt: skip
            last >> task
            last = task
    distiset = pipeline.run(use_cache=life.get("use_cache", life["kind"] == "stock"))
    found = [dict(row) for row in distiset["default"]["train"]]
    with open(life["output"], "w") as file:
        json.dump(found, file)


def serve() -> None:
    """Fork a life for each line of standard input: what takes long is imported once."""
    for line in sys.stdin:
        life = json.loads(line)
        if (pid := os.fork()) == 0:
            os.setpgrp()
            log = os.open(life["log"], os.O_CREAT | os.O_APPEND | os.O_WRONLY)
            for descriptor in (0, 1, 2):
                os.dup2(log, descriptor)
            try:
                live(life)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        print(pid, flush=True)
        print(os.waitpid(pid, 0)[1], flush=True)


if __name__ == "__main__":
    serve()
