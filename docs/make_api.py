"""Writes the lists of docs/api.md out of signatures and docstrings: `python docs/make_api.py`.

Which names and options belong together stands here; a test fails when one is in no group.
"""

from __future__ import annotations

import inspect
import os
import re

import checkpointdb as ckpt

PAGE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "api.md")

NAMES = {
    "Run a step": "step run arun Step Run args Args MISS Miss Failed current_key",
    "When to save": "adaptive every by_size on_exit SavePolicy Pending",
    "Before you pay, and afterwards": "Plan Why Report",
    "The store": "Store Record StepInfo RunInfo Call Problem Merged Conflict Salvaged salvage pull Pulled Pushed key_of",
    "Your own types": "register",
    "Events": "Event RunStarted Committed RowFailed CameLate RunEnded",
    "Options, for type annotations": "StepOptions RunOptions AllOptions",
}
OPTIONS = {
    "What counts as the same row": "name key depends using given duplicates input redact "
    "on_changed_input",
    "When the code changes": "on_change ignore replay",
    "When to save": "save durability remote ship",
    "How many at once": "concurrency batch_size executor ordered shard",
    "What if it fails": "on_error retry_failed stop_on valid timeout pause_on",
    "Money": "cost usage max_cost ledger pilot",
    "Several processes": "shared",
    "Seeing it": "progress on_event meta",
}
METHODS = ("Step", "Run", "Store")


def first_sentence(of: object) -> str:
    """Return what a docstring says first, as a cell of a table."""
    if of is ckpt.Event:
        return "Any of the events below: what `on_event=` is called with."
    text = inspect.getdoc(of) or ""
    return " ".join(text.partition("\n\n")[0].split()).replace("|", "\\|")


def attributes(of: type) -> dict[str, str]:
    """Return the attributes that a docstring describes."""
    block = (inspect.getdoc(of) or "").partition("Attributes:\n")[2]
    found = re.findall(r"^    (\w+): (.*?)(?=^    \w|\Z)", block, re.M | re.S)
    return {name: " ".join(text.split()).replace("|", "\\|") for name, text in found}


def grouped(words: dict[str, str], known: set[str]) -> dict[str, list[str]]:
    """Return the names of each group that exist; those of no group come last."""
    groups = {title: [name for name in of.split() if name in known] for title, of in words.items()}
    rest = sorted(known - {name for of in groups.values() for name in of})
    return groups | ({"Errors and warnings": rest} if words is NAMES else {"Other": rest})


def table(head: str, lines: list[str]) -> str:
    """Return a table in Markdown."""
    columns = head.count("|") - 1
    return "\n".join([head, "|" + "---|" * columns, *lines])


def of_names() -> str:
    """Return the tables of public names."""
    parts = []
    for title, names in grouped(NAMES, set(ckpt.__all__)).items():
        lines = [f"| `{name}` | {first_sentence(getattr(ckpt, name))} |" for name in names]
        parts.append(f"### {title}\n\n" + table("| name | |", lines))
    return "\n\n".join(parts)


def of_options() -> str:
    """Return the tables of options, each with where it may be given."""
    of_step, of_run = attributes(ckpt.StepOptions), attributes(ckpt.RunOptions)
    texts = of_step | of_run | {"using": f"{of_step['using']} A run gives their {of_run['using']}"}
    parts = []
    for title, names in grouped(OPTIONS, set(texts)).items():
        if not names:
            continue
        lines = [
            f"| `{it}=` | {' '.join(['step'] * (it in of_step) + ['run'] * (it in of_run))} "
            f"| {texts[it]} |"
            for it in names
        ]
        parts.append(f"### {title}\n\n" + table("| option | of | |", lines))
    return "\n\n".join(parts)


def of_methods() -> str:
    """Return the tables of the methods of the three classes that have many."""
    parts = []
    for name in METHODS:
        of = getattr(ckpt, name)
        members = [it for it in dir(of) if not it.startswith("_")]
        lines = [f"| `{it}` | {first_sentence(getattr(of, it))} |" for it in members]
        parts.append(f"### `{name}`\n\n" + table("| method or property | |", lines))
    return "\n\n".join(parts)


def page() -> str:
    """Return the page."""
    return f"""# Every public name

All of it is in `checkpointdb` itself: `import checkpointdb as ckpt`. `help(ckpt.NAME)` says more. This page is \
written by `python docs/make_api.py` out of the docstrings.

## Options, by what you want

"of" says where an option is given: `step(...)`, `label.run(...)`, or both: then the step's holds for direct calls, \
and for runs that are not given another. The functions `ckpt.run` and `ckpt.arun` take all of them.

{of_options()}

## Names

{of_names()}

## Methods

{of_methods()}

## Types

Type checkers (mypy and pyright are tried in CI) know what a run gives out: `Run[R]` of a step that returns `R`, \
async or not; the items of the list under `batch_size=`; `R | Failed` under `on_error="record"`, given to the run. \
They do not know of an `on_error="record"` that was given to `step`: give it to the run.
"""


if __name__ == "__main__":
    with open(PAGE, "w", encoding="utf-8") as file:
        file.write(page())
