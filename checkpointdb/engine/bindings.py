"""One step's code bound to different values in one process: neither gets the other's answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import BindingError
from ..values.keys import depends_digest
from .captured import Captured, Roots
from .stale import differences, in_short

# By code object and identity: what the first one was bound to, whether or not it still lives. The
# code object is kept, so that its id stays its own.
_bound: dict[tuple[Any, ...], tuple[Any, Roots]] = {}


def check_binding(captured: Captured, *identity: Any) -> None:
    """Raise if a closure or bound object of the same code was run with other values before.

    Args:
        captured: what the step captures now.
        identity: its store, name and version, and the values of `depends=`.

    Raises:
        BindingError: it names what differs.
    """
    if captured.code is None or not (now := captured.binding):
        return
    _, then = _bound.setdefault((id(captured.code), *identity), (captured.code, now))
    told = differences(then, now)
    if not told:
        return
    name = told[0].partition(" differs")[0].partition("[")[0].partition(".")[0].rpartition(" ")[2]
    example = "prompt=self.prompt" if name == "self" else f"{name}={name}"
    called, value = example.split("=")
    path, step, version = identity[:3]
    raise BindingError(
        f"step {step!r} version {version!r} in {path}: the same code was run in this process with "
        f"other values: {in_short(told)}. Each would get the other's saved answers. Put them into "
        f"the key with depends={{{called!r}: {value}}}, or give each step a name of its own. No "
        "call was made"
    )


def check_depends(step: str, keyed: bytes | None, depends: Mapping[str, Any] | None) -> None:
    """Raise if a value of `depends=` changed after the step was made: its keys have the old one.

    Raises:
        BindingError: it has.
    """
    if depends_digest(depends) != keyed:
        raise BindingError(
            f"step {step!r}: a value of depends= was changed after the step was made, so its keys "
            "still have the former one. Make the step again with the present values. No call was "
            "made"
        )
