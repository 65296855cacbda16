"""Turn `--save` on a command line into a save policy. Knows policies only."""

from __future__ import annotations

from collections.abc import Callable

from ..policy import SavePolicy, adaptive, by_size, every, on_exit

FORMS = "rows=100,seconds=5 (also bytes=, cost=), adaptive, adaptive=0.05, by_size or on_exit"


def parse_save(text: str, count: Callable[[], int | None]) -> SavePolicy:
    """Return the policy that `--save` names.

    Args:
        text: one of `FORMS`.
        count: tells how many rows there are, None if nobody can know; asked for `by_size` only.

    Raises:
        ValueError: none of them, or a limit out of range.
    """
    name, _, value = text.strip().partition("=")
    if text == "on_exit":
        return on_exit()
    if text == "adaptive":
        return adaptive()
    if name == "adaptive":
        return adaptive(_number(text, value))
    if text == "by_size":
        rows = count()
        if rows is None:
            raise ValueError(
                "by_size needs the number of rows, which a pipe does not tell: add --limit, or "
                "use rows=100"
            )
        return by_size(rows)
    return _every(text)


def _every(text: str) -> SavePolicy:
    limits: dict[str, float] = {}
    for part in text.split(","):
        name, equals, value = part.strip().partition("=")
        if name not in ("rows", "seconds", "bytes", "cost") or not equals or name in limits:
            raise ValueError(f"{text!r}: give {FORMS}")
        limits[name] = _number(text, value)
    for name in ("rows", "bytes"):
        if name in limits:
            if limits[name] != int(limits[name]):
                raise ValueError(f"{text!r}: {name} is a whole number")
            limits[name] = int(limits[name])
    return every(**limits)  # type: ignore[arg-type]


def _number(text: str, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise ValueError(f"{text!r}: {value!r} is not a number; give {FORMS}") from None
