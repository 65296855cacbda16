"""Save policies: due at their limits and not before, values to show and to combine."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkpointdb import Pending, SavePolicy, adaptive, by_size, every, on_exit
from checkpointdb.policy import (
    POLL_SECONDS,
    AnyOf,
    Exposed,
    check_policy,
    is_measured,
    loss_window,
    next_look,
)


class AtMidnight:
    """A user's own policy, which inherits from nothing."""

    def due(self, pending):
        return pending.rows >= 7


class EveryHour(AtMidnight):
    seconds = 3600.0


def beside(**known):
    """Two rows, seen by the timer."""
    return Pending(rows=2, background=True, **known)


@pytest.mark.parametrize(
    ("policy", "just_below", "at"),
    [
        (every(rows=3), Pending(rows=2), Pending(rows=3)),
        (every(rows=1), Pending(), Pending(rows=1)),
        (every(seconds=1.5), Pending(rows=9, seconds=1.49), Pending(rows=1, seconds=1.5)),
        (every(bytes=1000), Pending(rows=1, bytes=999), Pending(rows=1, bytes=1000)),
        (every(cost=0.5), Pending(rows=1, cost=0.49), Pending(rows=1, cost=0.5)),
        (every(rows=3, seconds=9), Pending(rows=2, seconds=8.9), Pending(rows=1, seconds=9.0)),
        (every(rows=3, seconds=9), Pending(rows=2, seconds=8.9), Pending(rows=3, seconds=0.0)),
        (by_size(10), Pending(rows=49), Pending(rows=50)),
        (by_size(1_000), Pending(rows=49), Pending(rows=50)),
        (by_size(1_001), Pending(rows=199), Pending(rows=200)),
        (by_size(10_000), Pending(rows=199), Pending(rows=200)),
        (by_size(10_001), Pending(rows=999), Pending(rows=1_000)),
        (AtMidnight(), Pending(rows=6), Pending(rows=7)),
        (every(rows=5) | AtMidnight(), Pending(rows=4), Pending(rows=5)),
        (AtMidnight() | every(rows=9), Pending(rows=6), Pending(rows=7)),
        (every(rows=9) | every(seconds=2), Pending(rows=8, seconds=1.9), Pending(seconds=2.0)),
        (on_exit() | every(rows=2), Pending(rows=1), Pending(rows=2)),
        (  # the work at stake pays for it
            adaptive(0.01, seconds=5),
            Pending(rows=1, work=0.99, elapsed=9, mean_commit_seconds=0.01),
            Pending(rows=1, work=1.0, elapsed=9, mean_commit_seconds=0.01),
        ),
        (  # and it is at most 5 % of the run's time, however much work is at stake
            adaptive(0.01, seconds=5),
            Pending(rows=1, work=99, elapsed=0.199, mean_commit_seconds=0.01),
            Pending(rows=1, work=99, elapsed=0.2, mean_commit_seconds=0.01),
        ),
        (
            adaptive(0.5, seconds=5),
            Pending(rows=1, work=9, elapsed=1.9, mean_commit_seconds=1.0),
            Pending(rows=1, work=9, elapsed=2.0, mean_commit_seconds=1.0),
        ),
        (  # while other calls are in flight it is left to the timer, whose commit holds up nobody
            adaptive(),
            Pending(rows=1, work=9, elapsed=1, seconds=1, in_flight=1),
            Pending(rows=1, work=9, elapsed=1, seconds=1, in_flight=1, background=True),
        ),
        (  # which gathers a burst for 5 ms
            adaptive(),
            beside(seconds=0.0049, work=9, elapsed=1),
            beside(seconds=0.0051, work=9, elapsed=1),
        ),
        (  # in which it is due at once while nothing was measured
            adaptive(),
            beside(seconds=0.0049),
            beside(seconds=0.005),
        ),
        (  # or for half of what a commit takes on a slow disk
            adaptive(),
            beside(seconds=0.099, work=9, elapsed=1, mean_commit_seconds=0.2),
            beside(seconds=0.101, work=9, elapsed=1, mean_commit_seconds=0.2),
        ),
        (  # and pays in processor time: of the work at stake
            adaptive(),
            Pending(
                2, seconds=1, work=0.09, elapsed=1, background=True, mean_processor_seconds=1e-3
            ),
            Pending(
                2, seconds=1, work=0.11, elapsed=1, background=True, mean_processor_seconds=1e-3
            ),
        ),
        (  # and of the run's time
            adaptive(),
            Pending(
                2, seconds=1, work=9, elapsed=0.019, background=True, mean_processor_seconds=1e-3
            ),
            Pending(
                2, seconds=1, work=9, elapsed=0.021, background=True, mean_processor_seconds=1e-3
            ),
        ),
        (
            adaptive(seconds=2),
            Pending(rows=1, seconds=1.9, elapsed=1.9, mean_commit_seconds=1.0),
            Pending(rows=1, seconds=2.0, elapsed=2.0, mean_commit_seconds=1.0),
        ),
        (
            adaptive(),
            Pending(rows=4095, mean_commit_seconds=1.0),
            Pending(rows=4096, mean_commit_seconds=1.0),
        ),
        (
            adaptive(),
            Pending(rows=1, bytes=(8 << 20) - 1, mean_commit_seconds=1.0),
            Pending(rows=1, bytes=8 << 20, mean_commit_seconds=1.0),
        ),
    ],
)
def test_a_policy_is_due_at_its_limit_and_not_before(policy, just_below, at):
    """Exactly at the limit: one row, byte, cent or moment less is not enough."""
    assert not policy.due(just_below)
    assert policy.due(at)


def test_a_policy_of_ones_own_may_come_first():
    """`mine | every(rows=5)` is due when either is, and shows both in that order."""
    mine = EveryHour()
    both = mine | every(rows=5)
    assert both == AnyOf((mine, every(rows=5)))
    assert not both.due(Pending(rows=4)) and both.due(Pending(rows=5))
    assert repr(both) == f"{mine!r} | every(rows=5)"
    for wrong in (None, 5, EveryHour):
        with pytest.raises(TypeError, match="save= takes a policy"):
            wrong | every(rows=5)


@pytest.mark.parametrize(
    ("policy", "measured"),
    [
        (adaptive(), True),
        (every(rows=5) | adaptive(), True),
        (every(rows=5) | (on_exit() | adaptive()), True),
        (every(rows=5) | every(seconds=1), False),
        (every(seconds=1), False),
        (EveryHour(), False),
    ],
)
def test_rows_wake_the_timer_of_a_policy_that_measures(policy, measured):
    """Under adaptive(), alone or in a pair, what is due depends on what commits take here."""
    assert is_measured(policy) == measured


def test_on_exit_is_never_due():
    """However much there is to lose."""
    assert not on_exit().due(Pending(10**9, 10**12, 10**6, 10**6, 10**6, 10.0))


def test_the_first_row_of_a_run_is_committed_at_once_under_adaptive():
    """Nothing was measured yet, so a commit costs nothing: a slow call is safe from the start."""
    assert adaptive().due(Pending(rows=1))


@given(
    st.builds(Pending, rows=st.integers(0, 20), seconds=st.floats(0, 20), bytes=st.integers(0, 99)),
    st.integers(1, 20),
    st.floats(0.1, 20),
    st.integers(1, 99),
)
def test_either_policy_of_a_pair_being_due_makes_the_pair_due(pending, rows, seconds, size):
    """`a | b` is due just when a or b is, in any nesting."""
    a, b, c = every(rows=rows), every(seconds=seconds), every(bytes=size)
    wanted = a.due(pending) or b.due(pending) or c.due(pending)
    assert (a | b | c).due(pending) == (a | (b | c)).due(pending) == wanted
    assert every(rows=rows, seconds=seconds, bytes=size).due(pending) == wanted


@pytest.mark.parametrize(
    "policy",
    [
        every(rows=100),
        every(rows=1, seconds=2.5, bytes=3, cost=0.25),
        adaptive(overhead=0.02, seconds=1.0),
        on_exit(),
        every(rows=1) | on_exit(),
        every(rows=1) | every(seconds=2) | adaptive(),
    ],
)
def test_a_policy_shows_as_the_code_that_makes_it(policy):
    """Evaluating the text gives an equal policy: that is what `ckpt inspect` shows."""
    assert eval(repr(policy)) == policy
    assert hash(eval(repr(policy))) == hash(policy)
    assert isinstance(policy, SavePolicy)


def test_policies_are_frozen():
    """A policy shared by two runs cannot change under one of them."""
    for policy in (every(rows=1), adaptive(), on_exit()):
        with pytest.raises(AttributeError):
            policy.seconds = 5


def test_the_rule_of_thumb_is_a_plain_policy():
    """`by_size` says what it chose: 50, 200 or 1,000 rows, each up to its size and not above."""
    assert by_size(0) == by_size(1_000) == every(rows=50)
    assert by_size(1_001) == by_size(10_000) == every(rows=200)
    assert by_size(10_001) == every(rows=1_000)
    assert repr(by_size(10**7)) == "every(rows=1000)"


@pytest.mark.parametrize(
    ("policy", "text"),
    [
        (every(rows=1), "no returned row"),
        (every(rows=100), "99 rows"),
        (every(rows=10_000, seconds=2.5), "9,999 rows or 2.5 s"),
        (every(seconds=60), "60 s"),
        (every(bytes=1 << 20), "1,048,576 bytes"),
        (every(cost=0.5), "$0.5"),
        (adaptive(), "5 s (not measured yet)"),
        (every(rows=3) | adaptive(seconds=2), "2 rows or 2 s (not measured yet)"),
        (on_exit(), "the whole run"),
        (every(rows=2) | every(seconds=1), "1 row or 1 s"),
        (AtMidnight(), "as AtMidnight decides"),
        (every(rows=2) | AtMidnight(), "1 row or as AtMidnight decides"),
    ],
)
def test_the_loss_window_is_said_in_words(policy, text):
    """What a crash can cost is a number the user chose."""
    assert loss_window(policy) == text


@pytest.mark.parametrize(
    ("rows", "seconds", "text"),
    [
        (12, 0.3, "about 0.3 s, 12 rows"),
        (12, 0.1, "about 0.1 s, 12 rows"),
        (12, 0.0996, "about 0.1 s, 12 rows"),
        (12, 0.0994, "about 99 ms, 12 rows"),
        (2, 0.05, "about 50 ms, 2 rows"),
        (4095, 1.234, "about 1.2 s, 4,095 rows"),
        (1, 0.0061, "about 6.1 ms, 1 row"),
        (1, 0.0, "about 0.1 ms, 1 row"),
        (0, 0.002, "no returned row so far"),
    ],
)
def test_what_a_run_has_measured_is_said_in_words(rows, seconds, text):
    """Under adaptive() the loss window is this disk's; the limits of every() stay the user's."""
    assert loss_window(adaptive(), Exposed(rows, seconds)) == text
    most = every(rows=5_000)
    assert loss_window(most | adaptive(), Exposed(rows, seconds)) == f"4,999 rows or {text}"
    assert loss_window(most, Exposed(rows, seconds)) == "4,999 rows"


def test_what_returns_during_a_commit_is_said_where_it_is_more_than_the_limit():
    """Many calls in flight: those that return with the one that is due wait for its commit."""
    more = ", as many as returned during a commit"
    assert loss_window(every(rows=1), Exposed(255, 0.02)) == f"255 rows{more}"
    assert loss_window(every(rows=5, seconds=1), Exposed(5, 0.02)) == f"5 rows{more} or 1 s"
    assert loss_window(every(rows=5), Exposed(4, 0.02)) == "4 rows"


@pytest.mark.parametrize(
    ("pending", "wait"),
    [
        (Pending(), 5.0),
        (Pending(1, work=1, elapsed=1), 0.005),  # a burst is gathered
        (Pending(1, work=1, elapsed=1, seconds=0.003), 0.002),
        (Pending(1, work=0, elapsed=1), 0.005),  # nor is there a pace that could be divided by
        (Pending(1, work=1, elapsed=1, mean_commit_seconds=0.02), 0.01),
        (Pending(1, work=1, elapsed=0.01, mean_processor_seconds=0.001), 0.01),  # 5 % of the time
        # another 0.05 s of work make it worth while, and work comes at 0.5 s a second
        (Pending(1, work=0.05, elapsed=0.1, mean_processor_seconds=0.001), 0.1),
        (Pending(1, work=0.0, elapsed=0.1, mean_processor_seconds=0.001), POLL_SECONDS),
        (Pending(1, seconds=4.9, work=0.0, elapsed=4.9, mean_processor_seconds=0.001), 0.1),
    ],
)
def test_the_timer_looks_soon_enough_under_adaptive(pending, wait):
    """When what is pending could be due, not at the ceiling: the rest of a burst must not wait."""
    assert next_look(adaptive(), pending) == pytest.approx(wait)


@pytest.mark.parametrize(
    ("policy", "age", "wait"),
    [
        (every(seconds=5), 0.0, 5.0),
        (every(seconds=5), 2.0, 3.0),
        (every(seconds=5), 5.0, 5.0),
        (every(seconds=5), 7.0, 5.0),
        (every(rows=5), 7.0, math.inf),
        (on_exit(), 7.0, math.inf),
        (AtMidnight(), 3.0, POLL_SECONDS),
        (AtMidnight(), 0.0, POLL_SECONDS),
        (EveryHour(), 600.0, 3000.0),
        (EveryHour(), 0.0, 3600.0),
        (every(seconds=5) | every(seconds=3), 1.0, 2.0),
        (every(rows=5) | every(seconds=3), 1.0, 2.0),
        (every(rows=5) | on_exit(), 1.0, math.inf),
        (every(seconds=5) | AtMidnight(), 1.0, POLL_SECONDS),
    ],
)
def test_the_timer_looks_again_just_when_a_policy_could_be_due(policy, age, wait):
    """Never later than its seconds; never at all if no time makes it due."""
    assert next_look(policy, Pending(rows=age > 0, seconds=age)) == pytest.approx(wait)


@pytest.mark.parametrize(
    "make",
    [
        every,
        lambda: every(rows=0),
        lambda: every(rows=-1),
        lambda: every(seconds=0),
        lambda: every(seconds=float("nan")),
        lambda: every(rows="5"),
        lambda: every(rows=5, bytes=0),
        lambda: adaptive(0),
        lambda: adaptive(1),
        lambda: adaptive(-0.1),
        lambda: adaptive(1.5),
        lambda: adaptive(seconds=0),
        lambda: by_size(-1),
    ],
)
def test_a_limit_that_makes_no_sense_is_a_value_error(make):
    """At the call, naming the argument."""
    with pytest.raises(ValueError, match=r"every\(|adaptive\(|by_size\("):
        make()


@pytest.mark.parametrize("policy", [None, 5, "adaptive", every, AtMidnight, object()])
def test_what_is_no_policy_is_a_type_error_that_says_what_to_pass(policy):
    """A class instead of its instance, a number, the function `every` itself."""
    with pytest.raises(TypeError, match=r"save= takes a policy such as every\(rows=100\)"):
        check_policy(policy)
    with pytest.raises(TypeError):
        every(rows=1) | policy


def test_limits_have_names():
    """`every(100)` could mean rows or seconds."""
    with pytest.raises(TypeError):
        every(100)
