"""The tables of the docs, made of the recorded results and nothing else."""

from __future__ import annotations

from collections.abc import Callable

from . import targets
from .adapters import PEERS, said
from .choice import frontier_table, recommendation_table, tradeoff_table
from .in_flight import loss_table
from .markdown import NOT_SAID, markdown, number
from .neighbours import neighbours_table
from .peers import SLOW_TO_START
from .results import Result, best, failure, figure, read
from .since import since_table


def target_table() -> str:
    """Return the targets set anew, with what was measured before and now."""
    return markdown(targets.HEADS, targets.tables()[0])


def other_target_table() -> str:
    """Return the targets that stayed."""
    return markdown(targets.HEADS, targets.tables()[1])


def missed_list() -> str:
    """Return why each target that is missed is."""
    return "\n".join(targets.misses()) or "None."


def peers_table() -> str:
    """Return the peers, a line each."""
    columns = {
        "first run": "first_us", "(processor)": "first_cpu_us", "resume": "resume_us",
        "bytes/row": "bytes_per_row", "files": "files", "MB": "memory_mb",
    }  # fmt: skip
    counts = {
        "calls, half done": "half_calls", "lost by a kill": "kill_lost", "import, ms": "import_ms",
    }  # fmt: skip
    found = [(_of(name), name) for name in PEERS]
    lines = [_peer(result, name, columns, counts) for result, name in found if _rows(result, name)]
    return markdown(["what", "rows", *columns, *counts], lines)


def how_table() -> str:
    """Return how each peer was told to save, and what a kill was measured to lose."""
    lines = [
        [name, said(name)["SAVES"], said(name)["HOW"], _kill_lost(name)]
        for name in PEERS
        if name != "bare_loop"
    ]
    return markdown(["what", "saves every", "how", "lost by a kill"], lines)


def _kill_lost(name: str) -> str:
    result = _of(name)
    figures = result["cases"].get(f"{name} counts", {}).get("figures", {}) if result else {}
    if figures.get("after_kill") != "went on":
        return figures.get("after_kill", NOT_SAID)
    return f"{number(figure(result, f'{name} counts', 'kill_lost'))} rows"


def _of(name: str) -> Result | None:
    return best("frameworks" if name in SLOW_TO_START else "peers")


def _rows(result: Result | None, name: str) -> int:
    return result["cases"][name]["parameters"]["rows"] if result and name in result["cases"] else 0


def _peer(
    result: Result | None, name: str, columns: dict[str, str], counts: dict[str, str]
) -> list[str]:
    cells = [number(figure(result, name, column)) for column in columns.values()]
    cells += [number(figure(result, f"{name} counts", column)) for column in counts.values()]
    assert result is not None
    after = result["cases"].get(f"{name} counts", {}).get("figures", {}).get("after_kill")
    if after == "hung":
        cells[-2] = "hung"
    return [_named(result, name), f"{_rows(result, name):,}", *cells]


def _named(result: Result | None, case: str) -> str:
    why = failure(result, case)
    return f"{case} ({why})" if why else case


def case_table(question: str, columns: dict[str, str]) -> Callable[[], str]:
    """Return a function that makes a table of a question's cases, a line each."""

    def table() -> str:
        result = best(question)
        names = list(result["cases"]) if result else []
        found = {n: [figure(result, n, c) for c in columns.values()] for n in names}
        lines = [
            [_named(result, n), *map(number, figures)]
            for n, figures in found.items()
            if failure(result, n) or any(it is not None for it in figures)
        ]
        return markdown(["what", *columns], lines)

    return table


def counted_table() -> str:
    """Return what a pass in batches over half saved rows has counted."""
    columns = {
        "calls": "calls", "hits": "hits", "computed": "computed", "refused": "refused",
        "given out as failed": "given_as_failed", "results saved": "results", "MB": "memory_mb",
    }  # fmt: skip
    result = best("batches")
    rows = f"{result['cases']['counted']['parameters']['rows']:,}" if result else NOT_SAID
    counts = [number(figure(result, "counted", column)) for column in columns.values()]
    return markdown(["rows", *columns], [[rows, *counts]])


def machine_table() -> str:
    """Return what was measured when and on what, a line for each question."""
    heads = ["question", "run", "recorded", "took", "load before, after", "fsync of 4 KiB", "at"]
    lines = [_measured(best(name)) for name in ALL if best(name)]
    return markdown(heads, lines) + "\n\n" + _machine(next(filter(None, map(best, ALL)), None))


def billion_table() -> str:
    """Return what the largest store measured makes of 10⁹ rows, in proportion."""
    result = read("huge", "full") or best("scale")
    name = list(result["cases"])[-1] if result else ""
    hours = {
        "a first run, without the step": "us", "a resume in order": "resume_rows_us",
        "a resume shuffled": "resume_shuffled_us",
    }  # fmt: skip
    lines = [
        [what, f"{number(us)} µs/row", f"{number(us * 1e9 / 3.6e9)} h"]
        for what, column in hours.items()
        if (us := figure(result, name, column)) is not None
    ]
    size = figure(result, name, "bytes_per_row")
    lines.append(["file", f"{number(size)} bytes/row", f"{number(size)} GB"])
    return markdown([f"from {name}", "measured", "at 10⁹ rows, in proportion"], lines)


ALL = (
    "since",
    "tradeoff",
    "in_flight",
    "peers",
    "frameworks",
    "million",
    "neighbours",
    "scale",
    "huge",
    "concurrency",
    "batches",
    "large",
    "large_tried",
    "zstd",
    "tricks",
    "guards",
)


def _measured(result: Result | None) -> list[str]:
    assert result is not None
    before, after = result["load_average"]
    return [
        result["question"], result["mode"], result["recorded_at"], f"{result['seconds']} s",
        f"{before}, {after}", f"{result['machine']['fsync_4k_ms']} ms", result["machine"]["commit"],
    ]  # fmt: skip


def _machine(result: Result | None) -> str:
    if result is None:
        return ""
    m = result["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in m["versions"].items())
    return (
        f"{m['cpu']}, {m['cores']} cores, {m['system']}, {m['file_system']}, "
        f"Python {m['python']}, SQLite {m['sqlite']}, {versions}."
    )


TABLES: dict[str, Callable[[], str]] = {
    "targets": target_table,
    "other_targets": other_target_table,
    "misses": missed_list,
    "since": since_table,
    "recommendation": recommendation_table,
    "tradeoff": tradeoff_table,
    "frontier": frontier_table,
    "in_flight": loss_table,
    "peers": peers_table,
    "how": how_table,
    "neighbours": neighbours_table,
    "million": case_table("million", {
        "first run, µs/row": "first_us", "(processor)": "first_cpu_us",
        "resume, µs/row": "resume_us", "bytes/row": "bytes_per_row", "MB": "memory_mb"}),
    "scale": case_table("scale", {
        "first run, µs/row": "us", "(processor)": "cpu_us", "resume in order": "resume_rows_us",
        "shuffled": "resume_shuffled_us", "select in order": "select_rows_us",
        "select shuffled": "select_shuffled_us", "bytes/row": "bytes_per_row", "MB": "memory_mb",
        "open, ms": "open_ms", "inspect, ms": "inspect_ms"}),
    "huge": case_table("huge", {
        "first run, µs/row": "us", "(processor)": "cpu_us", "resume in order": "resume_rows_us",
        "shuffled": "resume_shuffled_us", "bytes/row": "bytes_per_row", "MB": "memory_mb",
        "open, ms": "open_ms", "inspect, ms": "inspect_ms"}),
    "concurrency": case_table("concurrency", {
        "bare, rows/s": "bare_rows_per_second", "ours, rows/s": "rows_per_second",
        "overhead %": "overhead_pct", "µs/row": "overhead_us_per_row", "alone, ms": "alone_ms",
        "beside, ms": "beside_ms", "calls/row": "calls_per_row"}),
    "batches": case_table("batches", {
        "first run, µs/row": "first_cpu_us", "quietest": "first_cpu_us low",
        "resume": "resume_cpu_us", "(quietest)": "resume_cpu_us low"}),
    "counted": counted_table,
    "large": case_table("large", {
        "bare file, MB/s": "files_mb_per_second", "ours, MB/s": "mb_per_second", "ratio": "ratio",
        "read, MB/s": "resume_mb_per_second", "MB of memory": "memory_mb"}),
    "large_tried": case_table("large_tried", {
        "bare file, MB/s": "files_mb_per_second", "with it, MB/s": "mb_per_second",
        "ratio": "ratio", "at best": "ratio high", "processor, ms/MB": "cpu_ms_per_mb",
        "written, MB/MB": "written"}),
    "zstd": case_table("zstd", {
        "rows": "rows", "bytes a row": "bytes", "level 1": "ratio_1", "3": "ratio_3",
        "9": "ratio_9", "3, with a dictionary": "ratio_dictionary", "µs to write, 1": "us_1",
        "3 ": "us_3", "9 ": "us_9", "with a dictionary": "us_dictionary",
        "µs to read": "read_us_3"}),
    "tricks": case_table("tricks", {
        "µs/row": "us", "quietest": "us low", "in processor time": "cpu_us"}),
    "guards": case_table("guards", {
        "µs/row": "us", "in processor time": "cpu_us", "quietest": "cpu_us low"}),
    "machine": machine_table, "billion": billion_table,
}  # fmt: skip
