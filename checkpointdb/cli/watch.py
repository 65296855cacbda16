"""`ckpt watch`: the runs of other processes, live. Reads the store again and again."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import click

from ..file.read import to_builtins
from .display import ago, moment, money, note, number, rate, rich_table, safe, safe_line, shown
from .store_view import Look, read, state

RATE_WINDOW = 10.0  # seconds


class Watch:
    """What has happened since the watch began: runs that were going on, and how fast they were."""

    def __init__(self, store: str) -> None:
        self._store = store
        self._watched: set[int] = set()
        self._seen: dict[int, deque[tuple[float, int]]] = {}

    def look(self) -> dict[str, Any]:
        """Return the store's last commit, and the runs that go on or ended while being watched.

        If there are none, the last run is there.
        """
        seen = read(self._store, _look)
        going = [run["id"] for run in seen["runs"] if run["state"] in ("running", "unknown")]
        self._watched.update(going)
        chosen = [run for run in seen["runs"] if run["id"] in self._watched]
        seen["runs"] = chosen or seen["runs"][-1:]
        for run in seen["runs"]:
            run["rate"] = self._rate(run)
        return seen

    def _rate(self, run: dict[str, Any]) -> float:
        """Return rows a second over the last ten seconds, by the run's own clock of commits."""
        first = (run["started_at"], 0)
        times = self._seen.setdefault(run["id"], deque([first]))
        now = (run["updated_at"], run["rows"])
        if now != times[-1]:
            times.append(now)
        while len(times) > 2 and times[-1][0] - times[0][0] > RATE_WINDOW:
            times.popleft()
        seconds = times[-1][0] - times[0][0]
        return (times[-1][1] - times[0][1]) / seconds if seconds > 0 else 0.0


def _look(reader: Look) -> dict[str, Any]:
    calls = reader.calls()
    runs = [
        to_builtins(run)
        | {"state": state(run), "open_calls": sum(call.run == run.id for call in calls)}
        for run in reader.runs()
    ]
    last_commit = reader.last_commit()[1]
    return {"at": time.time(), "store": reader.path, "last_commit": last_commit, "runs": runs}


@click.command("watch", short_help="Watch a run in another process.")
@click.argument("store")
@click.option(
    "--every", type=click.FloatRange(0.05), metavar="SECONDS",
    help="How often to look: 1, or 5 where there is no terminal.",
)  # fmt: skip
@click.option("--until-end", is_flag=True, help="Stop when no run is going on.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object a line.")
def watch_command(store: str, every: float | None, until_end: bool, as_json: bool) -> None:
    """Show the runs on STORE while they go on: how far, how fast, what failed, what it costs.

    Counts are those of a run's last commit. q or Ctrl-C ends the watch, not the run. Without a
    terminal it prints a line for each run now and then. Only reads.

    \b
    Examples:
      ckpt watch reviews.ckpt
      ckpt watch reviews.ckpt --until-end --json | jq .runs[0].rate
    """  # noqa: D301 - click wants a real \b before lines it must not join
    watch = Watch(store)
    live = sys.stdout.isatty() and not as_json
    # the keys first: rich before 15 puts something that is no terminal in the place of sys.stdout
    with contextlib.suppress(KeyboardInterrupt), _keys() as wait, _showing(live, as_json) as show:
        while True:
            seen = watch.look()
            show(seen)
            if until_end and not _goes_on(seen):
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
        from rich.console import Console
        from rich.live import Live

        with Live(console=Console(highlight=False), auto_refresh=False) as screen:
            yield lambda seen: screen.update(_view(seen), refresh=True)


class _Lines:
    """A line for each run that goes on, and one for each that has ended."""

    def __init__(self) -> None:
        self._ended: set[int] = set()

    def show(self, seen: dict[str, Any]) -> None:
        """Print them; ended runs once."""
        if not seen["runs"]:
            note("no run on this store yet")
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
        "rows": number(run["rows"]),
        "hits": number(run["hits"]),
        "computed": number(run["computed"]),
        "failed": number(run["failed"]) if run["failed"] else "",
        "speed": _speed(run) if going else rate(run["rows"], run["seconds"]),
        "cost": money(run["cost"]) if run["cost"] else "",
        "sent, not saved": number(run["open_calls"]) if run["open_calls"] else "",
        "a crash costs": f"at most {run['loss_window']}" if going else "",
    }


def _speed(run: dict[str, Any]) -> str:
    return rate(1, 1 / run["rate"]) if run["rate"] else "–"


def _view(seen: dict[str, Any]) -> Any:
    from rich.console import Group
    from rich.text import Text

    commit = f"last commit {ago(seen['last_commit'])}" if seen["last_commit"] else "no commit yet"
    head = Text(safe(f"{shown(seen['store'])} · {commit} · q quits"), style="bold")
    rows = [{"run": str(run["id"])} | _cells(run) for run in seen["runs"]]
    if not rows:
        return Group(head, Text("no run on this store yet"))
    names = [name for name in rows[0] if any(row[name] for row in rows)]
    left = ("step", "is", "a crash costs")
    columns = [(name, "left" if name in left else "right") for name in names]
    return Group(head, Text(), rich_table(columns, [[row[name] for name in names] for row in rows]))
