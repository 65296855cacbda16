"""Short tracebacks: IPython and pytest leave our frames out where the user's code raised."""

from __future__ import annotations

import traceback

_OURS = __name__.partition(".")[0]
# between two frames of ours these only pass the error on
_BETWEEN = {_OURS, "asyncio", "concurrent", "contextlib", "contextvars", "threading"}


def hide_ours(error: BaseException) -> None:
    """Mark the frames through which an error of the user's came; those of our own errors stay."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    packages = [str(frame.f_globals.get("__name__", "")).partition(".")[0] for frame in frames]
    if _OURS not in packages or packages[-1] == _OURS:
        return
    first = packages.index(_OURS)
    last = len(packages) - 1 - packages[::-1].index(_OURS)
    for frame, package in list(zip(frames, packages, strict=True))[first : last + 1]:
        if package in _BETWEEN:
            frame.f_locals["__tracebackhide__"] = True
