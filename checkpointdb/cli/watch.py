"""`ckpt watch`: the runs of other processes, live. Reads the store again and again."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import click

from ..events import Report
from ..file.read import to_builtins
from ..file.records import RunInfo
from ..loops.bars import steady_console
from ..loops.pace import Look, Pace, clock
from .completion import files
from .display import (
    ago,
    moment,
    money,
    note,
    number,
    rate,
    rich_table,
    safe,
    safe_line,
    shown,
    tokens,
    width,
)
from .store_view import Look as StoreLook
from .store_view import read, state


class Watch:
    """What has happened since the watch began: runs that were going on, and how fast they were."""

    def __init__(self, store: str) -> None:
        self._store = store
        self._watched: set[int] = set()
        self._paces: dict[int, Pace] = {}

    def look(self) -> dict[str, Any]:
        """Return the store's last commit, and the runs that go on or ended while being watched.

        If there are none, return the last run; if there is no store yet, no run.
        """
        if not os.path.lexists(self._store) and os.path.isdir(os.path.dirname(self._store) or "."):
            path = os.path.realpath(self._store)
            return {"at": time.time(), "store": path, "last_commit": None, "runs": []}
        seen = read(self._store, _look)
        going = [run.id for run in seen["runs"] if run.state in ("running", "unknown")]
        self._watched.update(going)
        chosen = [run for run in seen["runs"] if run.id in self._watched]
        seen["runs"] = [self._told(run, seen) for run in chosen or seen["runs"][-1:]]
        return seen

    def _told(self, run: RunInfo, seen: dict[str, Any]) -> dict[str, Any]:
        """Return a run with its speed and the time left, by its own clock of commits."""
        pace = self._paces.setdefault(run.id, Pace(Look(run.started_at, Report())))
        done = run.report.rows / run.total if run.total else None
        pace.add(Look(run.updated_at, run.report, done))
        left = pace.seconds_left if run.state in ("running", "unknown") else None
        return to_builtins(run) | {
            "state": state(run),
            "open_calls": sum(call.run == run.id for call in seen["calls"]),
            "rate": pace.rows,
            "speed": pace.speed,
            "seconds_left": left and max(left - (seen["at"] - run.updated_at), 0.0),
        }


def _look(reader: StoreLook) -> dict[str, Any]:
    last_commit = reader.last_commit()[1]
    seen = {"at": time.time(), "store": reader.path, "last_commit": last_commit}
    return seen | {"runs": reader.runs(), "calls": reader.calls()}


@click.command("watch", short_help="Watch a run in another process.")
@click.argument("store", shell_complete=files)
@click.option(
    "--every", type=click.FloatRange(0.05), metavar="SECONDS",
    help="How often to look: 1, or 5 where there is no terminal.",
)  # fmt: skip
@click.option("--until-end", is_flag=True, help="Stop when no run is going on.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object a line.")
def watch_command(store: str, every: float | None, until_end: bool, as_json: bool) -> None:
    """Show the runs on STORE while they go on: how far, how fast, what failed, what it costs.

    It waits for a store that is not there yet. Counts are those of a run's last commit. q or Ctrl-C
    ends the watch, not the run. Without a terminal it prints a line for each run now and then. Only
    reads.

    \b
    Examples:
      ckpt watch reviews.ckpt
      ckpt watch reviews.ckpt --until-end --json | jq .runs[0].rate
    """  # noqa: D301 - click wants a real \b before lines it must not join
    watch, waited = Watch(store), not os.path.lexists(store)
    live = sys.stdout.isatty() and not as_json
    # the keys first: rich before 15 puts something that is no terminal in the place of sys.stdout
    with contextlib.suppress(KeyboardInterrupt), _keys() as wait, _showing(live, as_json) as show:
        while True:
            seen = watch.look()
            show(seen)
            if until_end and not _goes_on(seen) and (seen["runs"] or not waited):
                return
            if wait(every or (1.0 if live else 5.0)):
                return


def _goes_on(seen: dict[str, Any]) -> bool:
    return any(run["state"] in ("running", "unknown") for run in seen["runs"])


@contextlib.contextmanager
def _keys() -> Iterator[Callable[[float], bool]]:
    """Give a function that waits, and tells whether q was pressed meanwhile."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        yield _no_key_within
        return
    import termios
    import tty

    before = termios.tcgetattr(sys.stdin)
    terminated = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # else no echo afterwards
    try:
        tty.setcbreak(sys.stdin)
        yield _q_within
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
        signal.signal(signal.SIGTERM, terminated)


def _no_key_within(seconds: float) -> bool:
    time.sleep(seconds)
    return False


def _q_within(seconds: float) -> bool:
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        if select.select([sys.stdin], [], [], left)[0]:
            pressed = os.read(sys.stdin.fileno(), 1024)  # unbuffered, or select would not see it
            if not pressed or b"q" in pressed.lower():
                return True
    return False


@contextlib.contextmanager
def _showing(live: bool, as_json: bool) -> Iterator[Callable[[dict[str, Any]], object]]:
    if as_json:
        yield lambda seen: click.echo(safe_line(seen))
    elif not live:
        yield _Lines().show
    else:
        from rich.live import Live

        console = steady_console(highlight=False)
        with Live(console=console, auto_refresh=False) as screen:
            yield lambda seen: screen.update(_view(seen, console.width), refresh=True)


class _Lines:
    """A line for each run that goes on, and one for each that has ended."""

    def __init__(self) -> None:
        self._ended: set[int] = set()
        self._said = ""

    def show(self, seen: dict[str, Any]) -> None:
        """Print them; ended runs once."""
        if not seen["runs"] and self._said != (said := _nothing(seen)):
            self._said = said
            note(said)
        for run in seen["runs"]:
            if run["id"] not in self._ended:
                click.echo(safe(f"{moment(seen['at'])}  {_line(run, seen)}"))
            if run["state"] not in ("running", "unknown"):
                self._ended.add(run["id"])


def _line(run: dict[str, Any], seen: dict[str, Any]) -> str:
    parts = [f"{what} {cell}" for what, cell in _cells(run).items() if cell]
    commit = f", last commit {ago(seen['last_commit'])}" if seen["last_commit"] else ""
    return f"run {run['id']}: {', '.join(parts)}{commit}"


def _cells(run: dict[str, Any]) -> dict[str, str]:
    """Return what is shown of a run, "" for what does not apply to it."""
    going = run["state"] in ("running", "unknown")
    return {
        "step": f"{run['step']} {run['version']}",
        "is": run["state"],
        "rows": _of_total(run) if going else number(run["rows"]),
        "hits": number(run["hits"]),
        "computed": number(run["computed"]),
        "failed": number(run["failed"]) if run["failed"] else "",
        "speed": run["speed"] if going else rate(run["rows"], run["seconds"]),
        "left": "" if run["seconds_left"] is None else clock(run["seconds_left"]),
        "cost": money(run["cost"]) if run["cost"] else "",
        "usage": tokens(run["usage"]),
        "sent, not saved": number(run["open_calls"]) if run["open_calls"] else "",
        "a crash costs": f"at most {run['loss_window']}" if going else "",
    }


def _of_total(run: dict[str, Any]) -> str:
    rows, total = run["rows"], run["total"]
    if not total:
        return number(rows)
    return f"{number(rows)} of {number(total)} ({rows / total:.0%})"


def _nothing(seen: dict[str, Any]) -> str:
    path = shown(seen["store"])
    if os.path.lexists(seen["store"]):
        return f"no run on {path} yet"
    return f"waiting for {path}: no run has made it yet"


def _view(seen: dict[str, Any], room: int) -> Any:
    """Return a table, a run a line; where that does not fit, each run from top to bottom."""
    from rich.console import Group
    from rich.text import Text

    commit = f"last commit {ago(seen['last_commit'])}" if seen["last_commit"] else "no commit yet"
    head = Text(safe(f"{shown(seen['store'])} · {commit} · q quits"), style="bold")
    rows = [{"run": str(run["id"])} | _cells(run) for run in seen["runs"]]
    if not rows:
        return Group(head, Text(safe(_nothing(seen))))
    names = [name for name in rows[0] if any(row[name] for row in rows)]
    widths = [max(width(it) for it in (name, *(row[name] for row in rows))) for name in names]
    if sum(widths) + 2 * len(names) > room:
        return Group(head, *map(_facts, rows))
    left = ("step", "is", "a crash costs")
    columns = [(name, "left" if name in left else "right") for name in names]
    return Group(head, Text(), rich_table(columns, [[row[name] for name in names] for row in rows]))


def _facts(row: dict[str, str]) -> Any:
    """Return what is shown of a run, a fact a line, under an empty one."""
    return rich_table([("", "left"), ("", "left")], [it for it in row.items() if it[1]])
