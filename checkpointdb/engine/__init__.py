"""A run without its loop. Knows rows, policy and log; does not know who drives it.

A run is asked for by a `Job`, which opens nothing. `begin` builds it from parts that know their ids
from the start; `end` ends it. A part knows the parts that it was given, and none calls upward:

    rows ─ Source ─ Intake ───────────────── Results ─ the user
             │        │ hits, equal rows, claims    │
             │      InFlight: each key once         │
             │        │ the rest                    │
             │      Calls: the step ─ Committer ─ Log (file/log.py)
             └──────── Tally: counts everything ────┘

**Who holds which lock when.** One thread iterates: it alone reads the source, looks rows up in
batches, asks for claims, and gives out results. Next to it the threads of a pool, or of an
executor, compute and keep; a timer commits; a lease is renewed; any thread may flush the store, ask
for the report, or call the step for a single row.

- `Committer._committing` (re-entrant) is held through a whole commit; listeners are told under it.
  `Committer._lock`, taken under it or alone, is held while a result becomes pending or stops being
  pending. The user's policy is asked under it. A thread that adds a result does not wait for a
  commit, unless the policy says so. No commit begins under `_lock`.
- `Budget._lock` is held while the log is asked what others have spent; `Ledger._lock` while a group
  of calls is written.
- `Sharing._lock` is held while claims are given up, or a row is lent, in the log.
- `Log.lock` is held around each use of the file except look-ups, which have a lock of their own.
  Both are taken under any of those above.
- `Occurrences._lock` is held while the log is asked for numbers.
- `InFlight._lock`, `Tally._lock` and `Beside._lock` are held for a few instructions, and
  no other lock is taken under them. Whoever waits for a row is woken after the lock is given back.
- The table of `waiting.py` has a lock of its own, held for a few instructions; so has that of
  `overdue.py`, and a time limit has one for its places. No other is taken under them.
- A signal's handler commits in the main thread, but never while that thread is inside a commit, or
  between a step's return and the keeping of its result (`interrupts.py`). In a forked child all
  locks are made new.
- Under `remote=` a thread ships what is committed: `Shipper._shipping` (`cloud/shipper.py`) is held
  through requests, and nobody takes it under another lock.
- No lock guards a `Slot`: who computes it writes it, and others read it once it is settled.

So the order is: `Committer`, `Budget`, `Ledger`, `Sharing` or `Occurrences`; then `Log.lock`, the
innermost, or one of the short ones. None is held while the step or the source of rows runs.

A result becomes pending before its row leaves `InFlight`, and can be found in the log before it
stops being pending. So an equal row that comes at any moment finds it in one of them.
"""
