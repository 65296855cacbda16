"""Runs that are killed: forks one child a life, ends it as told, and reports its exit status.

    python crash_child.py STORE LOG SAVE DURABILITY DRIVER

Reads lines "SIGNAL DELAY" from standard input. For each it forks a child that runs the step over an
endless source, waits until the child has opened its store (a line "R" in the log) or not, as told
by the delay's sign, then |DELAY| seconds, sends the signal, and prints the exit status. A line
"RUN N" lets a child run over N rows to the end. Forking spares the start of an interpreter a life;
this process itself never touches a store.

The log is the oracle. The step appends "C row" when called and "A row" just before it returns, the
loop body "R row" when it has the result, each one write to an O_APPEND file: it outlives the kill.
"""

from __future__ import annotations

import itertools
import os
import select
import signal
import sys
import time

from drivers import DRIVERS

from checkpointdb import adaptive, every, on_exit

POLICIES = {"adaptive": adaptive, "every": every, "on_exit": on_exit}


def result_of(row: int) -> dict:
    """What the step makes of a row."""
    return {"row": row, "square": row * row, "text": "é" * (row % 7)}


def live(store: str, log: str, save: str, durability: str, driver: str, n: int | None) -> None:
    """One life: the run that gets killed."""
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def note(kind: str, row: int) -> None:
        os.write(descriptor, f"{kind} {row}\n".encode())

    def step(row: int) -> dict:
        note("C", row)
        result = result_of(row)
        time.sleep(0.0003)  # else nearly every kill would find the run in a commit
        note("A", row)
        return result

    how = DRIVERS[driver]
    policy = eval(save, POLICIES)
    label = how.step(step, store, save=policy, durability=durability)
    rows = itertools.count() if n is None else range(n)
    how.consume(how.start(label, rows), each=lambda result: note("R", result["row"]))


def wait_for_a_result(log: str, size: int, child: int) -> None:
    """Wait until this life's log has its first result, or the child has ended without one."""
    while os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        with open(log, "rb") as file:
            file.seek(size)
            if b"R" in file.read():
                return
        time.sleep(0.0002)


def main(arguments: list[str]) -> bool:
    """Serve; return True in a child, which then ends as any interpreter does."""
    store, log, save, durability, driver = arguments
    print("ready", flush=True)
    while line := os.read(0, 100).decode():
        kind, value = line.split()
        open(log, "ab").close()
        size = os.path.getsize(log)
        child = os.fork()
        if child == 0:
            n = int(value) if kind == "RUN" else None
            live(store, log, save, durability, driver, n)
            return True
        if kind != "RUN":
            delay = float(value)
            if delay < 0:
                wait_for_a_result(log, size, child)
            select.select([], [], [], abs(delay))
            os.kill(child, signal.Signals[kind])
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    return False


if __name__ == "__main__":
    main(sys.argv[1:])
