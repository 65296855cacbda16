"""The targets of the suite as data: what is looked up where, and what it should be."""

from __future__ import annotations

import dataclasses

from .in_flight import TARGET
from .since import COMMIT, NOW, THEN


@dataclasses.dataclass(frozen=True)
class Bound:
    """`figure` of `case`, over or minus the same of another case, and what it should be at most.

    `at_least` turns it round. `cpu` names the same figure in processor time, which other work on
    the machine disturbs less. `before` is what this page had at the commit where the targets were
    set, with the target of then; None: what the code of then takes in the same run. `why` is said
    where the target is missed.
    """

    what: str
    question: str
    case: str
    figure: str
    bound: float
    over: str | None = None
    over_figure: str | None = None
    unit: str = "×"
    at_least: bool = False
    minus: bool = False
    cpu: tuple[str, str] | None = None
    before: str | None = "–"
    why: str = ""
    loses: bool = False


FIRST_RUN = (
    "Bare apsw appends bytes that were made beforehand. Our commits alone take as long, and they "
    "check and index each record as well. The rest is Python: the row's identity, its look-up, the "
    "encoding of input and result, keeping it. A commit in a second thread while rows go on was "
    "built and measured (16.3 to 14.6 µs a row) and taken out again: it gains too little for the "
    "trust that it costs. Since the target was set, what guards a row (its identity against "
    'collisions, more looks at it before and after its call) made it 1.3 times as dear: see "Then '
    'and now". Some of it was won back.'
)
RESUME = (
    "The point select has its keys made beforehand and returns bytes. A hit cannot take less than "
    "its key, its checksum and its decoding. Against the same work (key, select, decode) see the "
    "line further down."
)
SHUFFLED = RESUME + " And each row is on another page than the one before."
DISKCACHE = "It keeps neither inputs nor checksums, and here 1,000 rows are one transaction."
SLOW_DOWN = (
    "The rest beyond the commits is 15 to 20 µs of Python a row, twice as much as in a tight loop: "
    "a processor that slept has to fetch code and data again. And these runs take only a second "
    "and a half, with a first commit that learns what a commit takes, and a last one."
)
IN_FLIGHT = (
    "64 calls return together, and what their rows take in Python is not hidden by any call in "
    "flight. See the load of the machine in the last table: tasks that wait are held up by others."
)
EMBEDDINGS = (
    "As MessagePack a list of floats takes half the bytes and half the encoding; what is left is "
    "the checksum, the comparison that the result comes back equal, and SQLite, which writes each "
    "byte twice."
)
ASYNC = (
    "A task, its row's place in order and a wake-up of the loop, for each row: the look-up, the "
    "encoding and the commit take as much as in a plain loop."
)
DIRECT = (
    "A direct call asks SQLite for its one key, checks the checksum and decodes; memoize makes a "
    "key of the pickled arguments and asks SQLite, too, and checks nothing."
)
BATCHES = "Each row of a batch has its own key, look-up, encoding and record; the call is shared."
MEMORY = "Importing checkpointdb takes 27 MB; the rest is keys and pages."
MOST = (
    "The tail of the key index, its filter and SQLite's cache are in memory up to their bounds. In "
    "all it is 142 MB, where it was 137; what 100,000 rows take is what shrank."
)
LARGE = "SQLite writes each byte twice, to its log and then to its place (below)."
COMMITS = "The first and the last commit of a short run count fully."
GROWTH = "The key index on disk grows with the store, and its pages leave SQLite's cache."
IMPORT = "There is more to import than there was; asyncio and what comes with it is left out."
KEEPS_LESS = "It keeps no inputs and no checksums, and its commits do not sync; ours do."
BUSY = (
    "Whenever the commit asks for the interpreter's lock back, it may wait for the switch "
    "interval, which is 5 ms."
)


def restated(rows: str) -> list[Bound]:
    """Return the targets as they were set anew at that commit; `rows`: of the first ones."""
    ten, small = "checkpointdb 10,000,000", "checkpointdb 100,000"
    return [
        _scale(rows, f"first run, {rows} rows, every(rows=1000), over bare apsw appending the same "
               "bytes", "us", 2.8, "us", "3.08 × (≤ 1.7)", FIRST_RUN),
        _scale(rows, "resume in order, over a point select a row", "resume_rows_us", 0.9,
               "select_rows_us", "1.02 × (≤ 0.5)", RESUME),
        _scale(rows, "resume shuffled, over a point select a row", "resume_shuffled_us", 1.2,
               "select_shuffled_us", "1.26 × (≤ 0.9)", SHUFFLED),
        Bound("µs a row at 10,000,000 rows over 100,000", "huge", ten, "us", 1.3, small, "us",
              cpu=("cpu_us", "cpu_us"), before="1.26 × (≤ 1.3)", why=GROWTH),
        _times_then("embeddings of 1,536 floats, every(rows=10)", "us", 1.5, EMBEDDINGS),
        _times_then("the same in processor time", "cpu_us", 2, EMBEDDINGS),
        Bound(f"the same: bytes on disk over those at {COMMIT}", "since", f"embeddings, {NOW}",
              "bytes_per_row", 0.55, f"embeddings, {THEN}", "bytes_per_row", before="1 ×"),
        Bound("async, 256 in flight: processor time a row beyond bare tasks", "since",
              f"async calls, {NOW}", "cpu_us", 12, unit="µs", before=None, why=ASYNC),
        _adaptive(1, "the whole slow-down", "overhead_pct", 2.5, "2.91 % (≤ 2)", SLOW_DOWN, True),
        Bound("adaptive(), 64 calls of 100 ms in flight: the whole slow-down", "in_flight", TARGET,
              "overhead_pct", 1, unit="%", why=IN_FLIGHT, loses=True),
        Bound("a direct call that hits, over diskcache's memoize", "since", f"direct hits, {NOW}",
              "us", 0.5, f"direct hits, {NOW}", "memoize_us", cpu=("cpu_us", "memoize_cpu_us"),
              before=None, why=DIRECT),
        Bound("a row of a batch of 256, over a single call", "since", f"batches, {NOW}", "us", 0.9,
              f"batches, {NOW}", "single_us", cpu=("cpu_us", "single_cpu_us"), before=None,
              why=BATCHES),
        Bound(f"peak memory of a first run of {rows} rows", "scale", f"checkpointdb {rows}",
              "memory_mb", 45, unit="MB", before="57.8 MB", why=MEMORY),
        Bound("peak memory at 10,000,000 rows beyond 100,000", "huge", ten, "memory_mb", 80, small,
              "memory_mb", unit="MB", minus=True, before="79.1 MB (≤ 100)", why=MOST),
        _faster("sqlitedict_store", 10, "11.3 × (≥ 10)", why=KEEPS_LESS),
        _faster("joblib_memory", 50, "82.9 × (≥ 50)", why=KEEPS_LESS),
        _faster("diskcache_plain", 5, why=KEEPS_LESS),
        _faster("diskcache_transact", 3, "3.69 × (≥ 15)", why=DISKCACHE),
        _faster("batchledger_store", 15, why="It syncs each row twice; here a sync is cheap."),
    ]  # fmt: skip


def others(rows: str) -> list[Bound]:
    """Return the targets that were set before and still are."""
    ten = "checkpointdb 10,000,000"
    return [
        _faster("lmdb_store", 1, "2.08 ×", "million", "It keeps no inputs and checks nothing."),
        _faster("jsonl_fsync", 1, "0.886 ×", "million", "A line of JSON has no index to extend."),
        Bound("resume in order, over bare apsw with key, point select and decoding", "peers",
              "checkpointdb_power", "resume_us", 0.5, "apsw_keyed", "resume_us",
              cpu=("resume_cpu_us", "resume_cpu_us"), before="0.65 ×", why=RESUME),
        *(_adaptive(ms, "share of the run in commits", "commit_share_pct", 1, before, COMMITS)
          for ms, before in ((1, "1.31 %"), (10, "1.04 %"), (300, "0.31 %"))),
        *(_adaptive(ms, "the whole slow-down", "overhead_pct", 2, before, SLOW_DOWN)
          for ms, before in ((10, "1.55 %"), (300, "0.392 %"))),
        Bound("commit of 1,000 rows beside a busy thread, over alone", "concurrency",
              "commits of 1,000 rows", "ratio", 3, before="3.06 ×", why=BUSY),
        Bound("open a store of 10,000,000 records", "huge", ten, "open_ms", 50, unit="ms",
              before="2.35 ms"),
        Bound("`ckpt inspect` on it, whole process", "huge", ten, "inspect_ms", 1000, unit="ms",
              before="175 ms"),
        _import("without typing_extensions, as installed by itself", "import_alone_ms", "55.7 ms"),
        _import("with it, which msgspec then imports", "import_ms", "57.2 ms"),
        Bound("file size over the bytes of keys, inputs, results", "scale", f"checkpointdb {rows}",
              "size_ratio", 1.25, before="1.23 ×"),
        Bound("1 MB results, throughput over a bare file with fsync", "large",
              "1 MB text, every(rows=1)", "ratio", 0.5, at_least=True, before="0.252 ×", why=LARGE),
    ]  # fmt: skip


def _scale(
    rows: str, what: str, figure: str, bound: float, over_figure: str, before: str, why: str
) -> Bound:
    cpu = (figure.replace("us", "cpu_us"), over_figure.replace("us", "cpu_us"))
    return Bound(
        what, "scale", f"checkpointdb {rows}", figure, bound, f"bare {rows}", over_figure, cpu=cpu,
        before=before, why=why,
    )  # fmt: skip


def _times_then(what: str, figure: str, times: float, why: str) -> Bound:
    return Bound(
        f"{what}: how many times faster than at {COMMIT}", "since", f"embeddings, {THEN}", figure,
        times, f"embeddings, {NOW}", figure, at_least=True, cpu=("cpu_us", "cpu_us"), before="1 ×",
        why=why,
    )  # fmt: skip


def _faster(
    peer: str, times: float, before: str = "–", question: str = "peers", why: str = ""
) -> Bound:
    return Bound(
        f"first run: {peer} takes how many times ours", question, peer, "first_us", times,
        "checkpointdb_power", "first_us", at_least=True, cpu=("first_cpu_us", "first_cpu_us"),
        before=before, why=why,
    )  # fmt: skip


def _adaptive(
    ms: int, what: str, figure: str, bound: float, before: str, why: str = "", loses: bool = False
) -> Bound:
    return Bound(
        f"adaptive(), calls of {ms} ms, one at a time: {what}", "tradeoff",
        f"adaptive() power 300 B {ms} ms", figure, bound, unit="%", before=before, why=why,
        loses=loses,
    )  # fmt: skip


def _import(how: str, figure: str, before: str) -> Bound:
    what = f"import checkpointdb in a fresh process, processor time, {how}"
    case = "checkpointdb_power counts"
    return Bound(what, "peers", case, figure, 60, unit="ms", before=before, why=IMPORT)
