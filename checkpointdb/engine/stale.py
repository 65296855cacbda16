"""Results that other code computed: which, how many, and what differs. Knows the log; no loop.

A code is a row of `step_code`: a fingerprint and what was captured. Codes differ if something is
known to differ; what is unknown on either side never does.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import msgspec

from ..errors import StaleResultsError, StoreCorruptError
from ..file.log import Log
from ..file.read import Reader
from ..file.records import SavedCode
from ..wording import safe
from .captured import DEPENDS, Captured, Roots
from .fingerprint import changed
from .follow import ITS_CODE
from .plain import Leaf

MOST_NAMED = 4
UNTIL_IGNORED = 3  # runs that differ in one value, before the warning shows the `ignore=` line


class Stale(msgspec.Struct, frozen=True):
    """Saved results of a step that were not computed by its present code.

    Attributes:
        results: how many; the newest of each row, successes alone.
        seconds: that their calls took.
        cost: dollars that they cost.
        runs: ids of the runs of other code.
        changes: what differs from the newest of these codes, a few words each.
        ignore: a name that alone keeps on changing, if there is one.
    """

    results: int = 0
    seconds: float = 0.0
    cost: float = 0.0
    runs: frozenset[int] = frozenset()
    changes: tuple[str, ...] = ()
    ignore: str | None = None

    @property
    def named(self) -> str:
        """What differs, in a line."""
        return in_short(self.changes)

    @property
    def expected(self) -> str:
        """What it takes to compute them again, going by what it took."""
        cost = f"about ${self.cost:,.2f} and " if self.cost else ""
        return f"{cost}about {self.seconds:,.0f} s of calls"


def in_short(changes: Sequence[str]) -> str:
    """Return the first few of some differences, and how many more there are."""
    more = len(changes) - MOST_NAMED
    told = ", ".join(changes[:MOST_NAMED])
    return told + (f" and {more} more" if more > 0 else "")


def find_stale(log: Log | Reader, step: int, present: Captured) -> Stale:
    """Return which of a step's results other code computed."""
    codes = log.codes(step)
    others = other_codes(codes, present)
    made = log.made_by(step, [code.id for code in others])
    if not made.results:
        return Stale()
    return Stale(
        made.results,
        made.seconds,
        made.cost,
        made.runs,
        tuple(differences(roots_of(others[-1]), present.roots)) or ("its code changed",),
        never_settling(codes, present),
    )


def stale_by_newest(reader: Reader, step: int) -> Stale:
    """Return which of a step's results were computed by code other than its newest run's."""
    code = reader.newest_code(step)
    if code is None:
        return Stale()
    return find_stale(reader, step, Captured(roots_of(code), code.fingerprint))


def other_codes(codes: Sequence[SavedCode], present: Captured) -> list[SavedCode]:
    """Return the codes that are known to differ from the present one and were not accepted.

    To accept a code means: all results saved so far are as good as its own. So the codes that were
    first used before the newest acceptance count as one.
    """
    own = next((it for it in codes if it.fingerprint == present.fingerprint), None)
    until = max((it.accepted_at for it in codes if it.accepted_at is not None), default=None)
    together = own is not None and until is not None and own.first_used <= until
    return [
        code
        for code in codes
        if not (together and until is not None and code.first_used <= until)
        and is_other(code, present)
    ]


def is_other(code: SavedCode, present: Captured) -> bool:
    """Tell whether a code is known to differ from the present one."""
    if present.fingerprint is None or code.fingerprint == present.fingerprint:
        return False
    if code.captured is None:
        return changed(code.fingerprint, present.fingerprint)
    return bool(differences(roots_of(code), present.roots))


def roots_of(code: SavedCode) -> Roots:
    """Return what a saved code captured."""
    if code.captured is None:
        return {}
    try:
        return msgspec.json.decode(code.captured, type=Roots)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise StoreCorruptError(
            f"what the code {safe(code.fingerprint)} captured (table step_code, id {code.id}) is "
            f"damaged ({error}). Keep the file as it is, and work on a copy"
        ) from error


def is_own(code: SavedCode) -> bool:
    """Tell whether a code is of a run of the step, not of adopted results."""
    return ITS_CODE in roots_of(code)


def differences(then: Roots, now: Roots) -> list[str]:
    """Say what differs, code first; a name that only one of them has is unknown, not changed."""
    both = (then.keys() & now.keys()) - {DEPENDS}
    names = sorted(both, key=lambda name: (name != ITS_CODE, name))
    code = [name for name in names if _is_code(name) and _code_changed(then[name], now[name])]
    told = [f"{name} changed" for name in code]
    for name in names:
        told += _value_differences(name, then[name], now[name], strict=not code)
    return [safe(difference) for difference in told]  # a store may be somebody else's


def _is_code(name: str) -> bool:
    return name == ITS_CODE or name.startswith(("function ", "class "))


def _code_changed(then: dict[str, Leaf], now: dict[str, Leaf]) -> bool:
    before, after = then.get(""), now.get("")
    return before is not None and after is not None and changed(before[0], after[0])


def _value_differences(
    name: str, then: dict[str, Leaf], now: dict[str, Leaf], strict: bool
) -> list[str]:
    """Say which leaves of a value differ.

    Args:
        name: of the value.
        then: its leaves.
        now: its leaves.
        strict: whether a leaf counts that only one of them has; changed code reads other leaves.
    """
    if ("" in then) != ("" in now):
        return [f"{name} differs"] if strict and _all_known(then, now) else []
    told = []
    for path in sorted(then.keys() | now.keys()):
        if path == "" and _is_code(name):
            continue
        if path not in then or path not in now:
            if strict and (now if path in now else then)[path] is not None:
                told.append(f"{name}{path} is {'new' if path in now else 'gone'}")
            continue
        before, after = then[path], now[path]
        if before is not None and after is not None and before[0] != after[0]:
            told.append(f"{name}{path} differs{_from_to(before[1], after[1])}")
    return told


def _all_known(*sides: dict[str, Leaf]) -> bool:
    return all(leaf is not None for leaves in sides for leaf in leaves.values())


def _from_to(before: str | None, after: str | None) -> str:
    if before is None or after is None or before == after:
        return ""
    return f" ({before} → {after})"


def never_settling(codes: Sequence[SavedCode], present: Captured) -> str | None:
    """Return the name in which the last codes and the present one differ, if it is always one."""
    last = [it for it in codes if it.fingerprint != present.fingerprint and is_own(it)][
        -UNTIL_IGNORED + 1 :
    ]
    if len(last) < UNTIL_IGNORED - 1:
        return None
    states = [*map(roots_of, last), present.roots]
    found = {
        tuple(word.partition(" differs")[0] for word in differences(then, now))
        for then, now in itertools.pairwise(states)
    }
    if len(found) != 1 or len(names := found.pop()) != 1 or names[0].endswith("changed"):
        return None
    return names[0].partition(" ")[2] or names[0]


def refuse(step: str, path: str, stale: Stale, why: str, remedy: str) -> StaleResultsError:
    """Return the error of a run that must not begin over results of other code."""
    return StaleResultsError(
        f"step {step!r} in {path}: {stale.results:,} saved results were computed by other code: "
        f"{stale.named}. {why}; computing them again would take {stale.expected}. {remedy}",
        stale.results,
        stale.changes,
    )
