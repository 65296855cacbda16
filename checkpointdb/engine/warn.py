"""Warn at the user's line. Knows which frames are ours; nothing else."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from pathlib import Path
from types import FrameType

# Frames that are not the user's: this package, and the context manager that a run is in.
_OURS = (str(Path(__file__).parent.parent) + os.sep, contextlib.__file__)


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the user's innermost line, each time and not only the first time for a line."""
    frame = _users_frame()
    warnings.warn_explicit(
        message,
        category,
        frame.f_code.co_filename,
        frame.f_lineno,
        module=frame.f_globals.get("__name__"),
        registry={},
    )


def _users_frame() -> FrameType:
    frame = sys._getframe(1)
    while frame.f_back is not None and is_ours(frame):
        frame = frame.f_back
    return frame


def is_ours(frame: FrameType) -> bool:
    """Tell whether a frame is of this package, and not the user's."""
    return frame.f_code.co_filename.startswith(_OURS)
