"""When to save. Knows counts; knows nothing of clocks, disks or rows.

A policy is a frozen value with `due(pending) -> bool`. The run asks it after every call that
returned, a batch with all its results pending. A timer asks it too. So a limit in seconds holds
even while no row returns, and the timer's thread commits what returned while other calls are in
flight.
"""

from __future__ import annotations

import math
from typing import Protocol, runtime_checkable

import msgspec

POLL_SECONDS = 0.5
SOONEST = 0.001  # seconds until the timer looks again, at least
# Under `adaptive`: what commits may take of the run's time where calls overlap, and for how many
# seconds rows that return together are gathered into one commit.
WALL_SHARE = 0.05
GATHER_SECONDS = 0.005


class Pending(msgspec.Struct):
    """What a crash would lose now, as a policy sees it.

    Attributes:
        rows: results returned and not yet committed.
        bytes: their size on disk: keys, inputs and results.
        seconds: age of the oldest of them.
        cost: dollars paid for them.
        elapsed: seconds of run time since the last commit ended.
        mean_commit_seconds: what a commit takes here, a moving average of those measured.
        work: seconds that their calls took, summed: what it takes to compute them again.
        in_flight: calls that had not returned when the newest pending result did. In an event loop
            the call of that result counts too, because the loop must not wait for a commit.
        background: whether the timer asks. A commit then runs next to the calls and the loop, and
            costs them its processor time only; otherwise the row just returned waits for it.
        mean_processor_seconds: the processor time of a commit, averaged like its seconds.
    """

    rows: int = 0
    bytes: int = 0
    seconds: float = 0.0
    cost: float = 0.0
    elapsed: float = 0.0
    mean_commit_seconds: float = 0.0
    work: float = 0.0
    in_flight: int = 0
    background: bool = False
    mean_processor_seconds: float = 0.0


class Exposed(msgspec.Struct, frozen=True):
    """The most that was pending at any moment of a run so far: what a crash then would have cost.

    Attributes:
        rows: results that had returned.
        seconds: age of the oldest of them.
    """

    rows: int
    seconds: float


@runtime_checkable
class SavePolicy(Protocol):
    """The shape of a save policy: any object with `due` is one; it need not inherit.

    If a policy has an attribute `seconds`, the timer asks it when the oldest result is that old
    (None: never). It asks any other policy twice a second.
    """

    def due(self, pending: Pending) -> bool:
        """Tell whether to commit now. Called often: no clock, no I/O, no state."""
        ...


class _Policy(msgspec.Struct, frozen=True):
    def __or__(self, other: SavePolicy) -> AnyOf:
        return AnyOf((check_policy(self), check_policy(other)))

    def __ror__(self, other: SavePolicy) -> AnyOf:
        return AnyOf((check_policy(other), check_policy(self)))


class Every(_Policy, frozen=True):
    """Commit at the first limit reached; see `every`."""

    rows: int | None = None
    seconds: float | None = None
    bytes: int | None = None
    cost: float | None = None

    def __post_init__(self) -> None:
        limits = msgspec.structs.asdict(self)
        if all(limit is None for limit in limits.values()):
            raise ValueError("every() needs a limit: rows=, seconds=, bytes= or cost=")
        for name, limit in limits.items():
            if limit is not None and not (isinstance(limit, int | float) and limit > 0):
                raise ValueError(f"every({name}=) must be a number above 0, got {limit!r}")

    def due(self, pending: Pending) -> bool:
        """Tell whether any limit is reached."""
        return (
            (self.rows is not None and pending.rows >= self.rows)
            or (self.seconds is not None and pending.seconds >= self.seconds)
            or (self.bytes is not None and pending.bytes >= self.bytes)
            or (self.cost is not None and pending.cost >= self.cost)
        )

    def __repr__(self) -> str:
        limits = msgspec.structs.asdict(self).items()
        return f"every({', '.join(f'{k}={v!r}' for k, v in limits if v is not None)})"


class Adaptive(_Policy, frozen=True):
    """Commit when that costs less than a share of the work at stake; see `adaptive`."""

    overhead: float = 0.01
    seconds: float = 5.0
    rows: int = 4096
    bytes: int = 8 << 20

    def __post_init__(self) -> None:
        if not 0 < self.overhead < 1:
            raise ValueError(
                f"adaptive(overhead=) must be a share between 0 and 1, got {self.overhead!r}"
            )
        for name in ("seconds", "rows", "bytes"):
            if not getattr(self, name) > 0:
                raise ValueError(
                    f"adaptive({name}=) must be a number above 0, got {getattr(self, name)!r}"
                )

    def due(self, pending: Pending) -> bool:
        """Tell whether a commit now is worth its cost, or a ceiling is reached."""
        if (
            pending.rows >= self.rows
            or pending.seconds >= self.seconds
            or pending.bytes >= self.bytes
        ):
            return True
        if pending.background:
            return self._wait(pending) <= 0 and self._cost(pending) <= self.overhead * pending.work
        if pending.in_flight:
            return False  # the timer will ask, and its commit holds up nobody
        return (
            pending.mean_commit_seconds <= self.overhead * pending.work
            and pending.mean_commit_seconds <= self._wall_share * pending.elapsed
        )

    def next_look(self, pending: Pending) -> float:
        """Return in how many seconds the timer must ask again, if no row returns meanwhile."""
        if not pending.rows:
            return self.seconds
        wait, short = self._wait(pending), self._cost(pending) - self.overhead * pending.work
        if short > 0:  # by when the work at stake will suffice, at the pace so far
            pace = self.overhead * pending.work / max(pending.elapsed, SOONEST)
            wait = max(wait, min(short / pace, POLL_SECONDS) if pace else POLL_SECONDS)
        return min(wait, self.seconds - pending.seconds)

    @property
    def _wall_share(self) -> float:
        return max(WALL_SHARE, self.overhead)

    def _cost(self, pending: Pending) -> float:
        """Return how many seconds the timer's commit takes from the run."""
        return pending.mean_processor_seconds

    def _wait(self, pending: Pending) -> float:
        """Return how long to gather rows still: they come in bursts, and commits add up.

        On a slow disk it is longer, so that other processes find the file free.
        """
        gather = max(GATHER_SECONDS, pending.mean_commit_seconds / 2)
        return max(
            gather - pending.seconds, self._cost(pending) / self._wall_share - pending.elapsed
        )

    def __repr__(self) -> str:
        return f"adaptive(overhead={self.overhead!r}, seconds={self.seconds!r})"


class OnExit(_Policy, frozen=True):
    """Commit when the run ends and not before; see `on_exit`."""

    seconds: None = None

    def due(self, pending: Pending) -> bool:  # noqa: ARG002
        """Never."""
        return False

    def __repr__(self) -> str:
        return "on_exit()"


class AnyOf(_Policy, frozen=True):
    """Commit when any of several policies is due: what `a | b` makes."""

    policies: tuple[SavePolicy, ...]

    def due(self, pending: Pending) -> bool:
        """Tell whether any of the policies is due."""
        return any(policy.due(pending) for policy in self.policies)

    def __repr__(self) -> str:
        return " | ".join(map(repr, self.policies))


def every(
    *,
    rows: int | None = None,
    seconds: float | None = None,
    bytes: int | None = None,
    cost: float | None = None,
) -> Every:
    """Commit at the first limit reached.

    A crash costs at most `rows - 1` returned rows (none at `rows=1`), or what returned in the last
    `seconds` plus one commit. A timer keeps `seconds`.

    Args:
        rows: results returned since the last commit.
        seconds: age of the oldest result not committed.
        bytes: size of keys, inputs and results not committed.
        cost: dollars not committed.

    Raises:
        ValueError: no limit, or a limit that is not above 0.
    """
    return Every(rows, seconds, bytes, cost)


def adaptive(overhead: float = 0.01, *, seconds: float = 5.0) -> Adaptive:
    """Commit whenever that costs less than `overhead` of the work a crash would lose. The default.

    The work at stake is the seconds of the pending calls, summed. With one call at a time, a call
    of a second is committed before its result is given out; calls of 10 µs are committed some
    thousands at a time. While other calls are in flight, or in an event loop, what returned is
    gathered for 5 ms (half a commit's time, if that is longer) and committed in a thread of its
    own, which holds up no call and no loop. These commits take at most 5 % (or `overhead`, if that
    is more) of the run's time.

    So a crash costs what returns in the time of a commit on this disk, divided by those shares:
    almost nothing for slow or paid calls. It is never more than 4,095 returned rows, 8 MiB, or what
    returned in the last `seconds` plus one commit, whichever is least.

    Args:
        overhead: share of the work at stake, above 0 and below 1.
        seconds: ceiling on the age of a result not committed, kept by a timer.

    Raises:
        ValueError: a number out of range.
    """
    return Adaptive(overhead, seconds)


def by_size(n: int) -> Every:
    """Commit by the rule of thumb for a data set of `n` rows: every 50, 200 or 1,000.

    It takes the safe end of each range that is documented practice in Distilabel pipelines: every
    50 to 100 rows for 100 to 1k, every 200 to 500 for 1k to 10k, every 1k to 5k for more.

    Raises:
        ValueError: `n` is negative.
    """
    if n < 0:
        raise ValueError(f"by_size() needs a number of rows of at least 0, got {n}")
    return Every(rows=50 if n <= 1_000 else 200 if n <= 10_000 else 1_000)


def on_exit() -> OnExit:
    """Commit once, when the run ends by itself or is stopped. A kill -9 loses the whole run."""
    return OnExit()


def check_policy(policy: object, name: str = "save") -> SavePolicy:
    """Return `policy` if it can be asked, else raise a TypeError that says what to pass."""
    if isinstance(policy, type) or not callable(getattr(policy, "due", None)):
        raise TypeError(
            f"{name}= takes a policy such as every(rows=100), not {policy!r}: "
            "an object with a method due(pending) -> bool"
        )
    return policy  # type: ignore[return-value]


def is_measured(policy: SavePolicy) -> bool:
    """Tell whether `policy` goes by how long commits take, so that rows wake its timer."""
    if isinstance(policy, AnyOf):
        return any(map(is_measured, policy.policies))
    return isinstance(policy, Adaptive)


def next_look(policy: SavePolicy, pending: Pending) -> float:
    """Return in how many seconds the timer must ask `policy` again; infinite: never.

    Args:
        policy: any policy.
        pending: what is pending now, perhaps nothing.
    """
    if isinstance(policy, AnyOf):
        return min(next_look(part, pending) for part in policy.policies)
    if isinstance(policy, Adaptive):
        return policy.next_look(pending)
    age = pending.seconds if pending.rows else 0.0
    seconds: float | None = getattr(policy, "seconds", age + POLL_SECONDS)
    if seconds is None:
        return math.inf
    return seconds - age if age < seconds else seconds


def loss_window(policy: SavePolicy, exposed: Exposed | None = None) -> str:
    """Say in words the most that a crash can cost under `policy`, calls in flight aside.

    Args:
        policy: any policy.
        exposed: what the run has measured, if it has.
    """
    if isinstance(policy, OnExit):
        return "the whole run"
    if isinstance(policy, AnyOf):
        return " or ".join(loss_window(part, exposed) for part in policy.policies)
    if isinstance(policy, Adaptive):
        return f"{policy.seconds:g} s (not measured yet)" if exposed is None else _in_words(exposed)
    if not isinstance(policy, Every):
        return f"as {type(policy).__name__} decides"
    limits = []
    if policy.rows is not None:
        limits.append(_limit(policy.rows - 1, exposed.rows if exposed else 0))
    if policy.seconds is not None:
        limits.append(f"{policy.seconds:g} s")
    if policy.bytes is not None:
        limits.append(f"{policy.bytes:,} bytes")
    if policy.cost is not None:
        limits.append(f"${policy.cost:g}")
    return " or ".join(limits)


def _limit(rows: int, exposed: int) -> str:
    if exposed > rows:  # with many calls in flight: these wait for the next commit
        return f"{_rows(exposed)}, as many as returned during a commit"
    return _rows(rows) if rows else "no returned row"


def _in_words(exposed: Exposed) -> str:
    if not exposed.rows:
        return "no returned row so far"
    seconds = exposed.seconds
    time = f"{seconds:.2g} s" if seconds >= 0.0995 else f"{max(seconds * 1e3, 0.1):.2g} ms"
    return f"about {time}, {_rows(exposed.rows)}"


def _rows(n: int) -> str:
    return f"{n:,} row{'s' * (n != 1)}"
