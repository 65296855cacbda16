"""A run without its loop. Knows rows, policy and log; does not know who drives it.

A run is asked for by a `Job`, which opens nothing. `begin` builds it from parts that know their ids
from the start; `end` ends it. A part knows the parts that it was given, and none calls upward:

    rows ─ Source ─ Intake ───────────────── Results ─ the user
             │        │ hits, equal rows, claims    │
             │      InFlight: each key once         │
             │        │ the rest                    │
             │      Calls: the step ─ Committer ─ Log (file/log.py)
             └──────── Tally: counts everything ────┘

**Who holds which lock when.** Threads meet here: those of a pool compute, one reads rows and gives
out results, a timer commits, a lease is renewed, listeners are called, any thread may flush the
store or call the step for a single row.

- `Committer._lock` (re-entrant) is held while a result becomes pending and through a whole commit:
  who adds meanwhile waits. The user's policy is asked and listeners are told of a commit under it.
- `Budget._lock` is held while the log is asked what others have spent; `Ledger._lock` while a group
  of calls is written.
- `Log.lock` is held around each use of the file. It is taken under any of those above.
- `InFlight._lock`, `Tally._lock` and that of `Occurrences` are held for a few instructions, and
  no other lock is taken under them. Whoever waits for a row is woken after the lock is given back.

So the order is: `Committer`, `Budget` or `Ledger`; then `Log.lock` or one of the short ones. None
is held while the step or the source of rows runs. A result is pending before its row leaves
`InFlight`, and a commit is found in the log before it is pending no more: an equal row that comes
at any moment finds one of them.
"""
