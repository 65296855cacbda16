"""The recorded results: one JSON file for each question and mode, committed."""

from __future__ import annotations

import json
import os
from typing import Any

FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "results")

Result = dict[str, Any]


def read(question: str, mode: str) -> Result | None:
    """Return what was last recorded."""
    path = _path(question, mode)
    if not os.path.exists(path):
        return None
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def best(question: str) -> Result | None:
    """Return the full results, else the quick ones."""
    return read(question, "full") or read(question, "quick")


def write(question: str, mode: str, result: Result) -> None:
    """Record results in place of the last ones."""
    os.makedirs(FOLDER, exist_ok=True)
    with open(_path(question, mode), "w", encoding="utf-8") as file:
        json.dump(result, file, indent=1, ensure_ascii=False)
        file.write("\n")


def figure(result: Result | None, case: str, name: str) -> float | None:
    """Return one figure's median, or its lowest if asked for `NAME low`; None: not measured."""
    if result is None or case not in result["cases"]:
        return None
    name, _, which = name.partition(" ")
    found = result["cases"][case]["figures"].get(name)
    return found[which or "median"] if isinstance(found, dict) else None


def failure(result: Result | None, case: str) -> str | None:
    """Return why a case failed; None: it did not."""
    figures = result["cases"].get(case, {}).get("figures", {}) if result else {}
    return figures.get("failed")


def _path(question: str, mode: str) -> str:
    return os.path.join(FOLDER, f"{question}.{mode}.json")
