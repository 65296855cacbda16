"""What a store holds, as a reader sees it: values only, no SQL and no files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec
from xxhash import xxh3_64_intdigest

from ..errors import DecodeError
from ..events import PILOT_ENDED, Report
from ..values.codec import decode
from .processes import Process, alive

Stored = str | bytes
RunState = Literal["running", "finished", "stopped", "failed", "killed", "unknown"]


class Entry(msgspec.Struct, gc=False):
    """A record on its way to the log, values encoded.

    Attributes:
        key: 16 bytes.
        identity: 16 bytes, the digest of what the key was made of: see `values/keys.py`.
        position: of the row in the input of its run, from 0.
        attempts: how often the row was tried, over all runs.
        seconds: of the call.
        cost: dollars, or None.
        error: JSON, or None on success.
        result: the encoded result.
        input: what is kept of the row, encoded; None if nothing is.
        input_form: what `input` is: see `values/keys.py`.
        row_digest: 16 bytes, the digest of the whole row where the key has only part of it.
        occurrence: which of equal rows it is, from 0.
        usage: token counts, a JSON object; None if none are known.
        replaces: id of the record of this key so far, 0 if there is none.
    """

    key: bytes
    identity: bytes
    position: int
    attempts: int
    seconds: float
    cost: float | None
    error: str | None
    result: Stored | None
    input: Stored | None
    input_form: int = 0
    row_digest: bytes | None = None
    occurrence: int = 0
    usage: str | None = None
    replaces: int = 0


class Appended(msgspec.Struct, frozen=True):
    """What a commit wrote: records `first_id` to `last_id`, 0 if none, and the entries it left out.

    `late` are entries of a worker, and failures of anybody, for whose key somebody else's result
    was there already. They are not saved.
    """

    first_id: int = 0
    last_id: int = 0
    late: Sequence[Entry] = ()


class SentCall(msgspec.Struct, gc=False):
    """A call that is about to be made: which row it is for, and what is kept of that."""

    key: bytes
    position: int
    input: Stored | None
    input_form: int


class Code(msgspec.Struct, frozen=True):
    """A step's code: a fingerprint, and as JSON what it captured, to say later what changed."""

    fingerprint: str
    captured: str | None


class SavedCode(msgspec.Struct, frozen=True):
    """A code that a step was run with, as `step_code` has it; times in seconds since 1970."""

    id: int
    fingerprint: str
    captured: str | None
    first_used: float
    accepted_at: float | None


class Made(msgspec.Struct, frozen=True):
    """What some codes of a step made: newest results of their rows, seconds, dollars, the runs."""

    results: int
    seconds: float
    cost: float
    runs: frozenset[int]


class Registered(msgspec.Struct, frozen=True):
    """What a store knew of a step: its id, its key recipe, the fingerprint of its last code.

    `on_change` is what its newest run was told to do with results of other code.
    """

    id: int
    key_recipe: str
    fingerprint: str | None
    on_change: str | None = None


class Found(msgspec.Struct, gc=False):
    """What a look-up needs of the newest record of a key; `id` is 0 until it is committed."""

    id: int
    identity: bytes
    attempts: int
    error: str | None
    result: Stored | None
    run: int
    row_digest: bytes | None = None  # of what is not committed; else ask `Log.row_digests`


class Record(msgspec.Struct, frozen=True):
    """The newest record of a key.

    Attributes:
        key: 32 hex digits.
        step: name of the step.
        version: version of the step.
        position: place of the row in the input of the run that computed it, from 0.
        input: the row, or what `key=` and `input=` leave of it; None if nothing is kept.
        result: what the step returned; None if it failed.
        error: None on success, else what went wrong: type, message, traceback.
        attempts: how often the row was tried, over all runs.
        seconds: how long the call took.
        cost: dollars, or None.
        saved_at: time of the commit, seconds since 1970.
        run: id of the run that wrote it.
        id: its place in the log; never used again, even when the record is deleted.
        occurrence: which of equal rows it is under `duplicates="separate"`, from 0.
        kept: what `input` is: the `row`, the `arguments` of a call, what `key=` makes the `key`
            of, or `nothing`.
        usage: token counts by name, {} if none are known.
    """

    key: str
    step: str
    version: int | str
    position: int
    input: Any
    result: Any
    error: dict[str, Any] | None
    attempts: int
    seconds: float
    cost: float | None
    saved_at: float
    run: int
    id: int
    occurrence: int
    kept: Literal["row", "arguments", "key", "nothing"]
    usage: dict[str, int] = {}


class StepInfo(msgspec.Struct, frozen=True):
    """A step in a store: its identity and what is saved of it.

    `key_recipe` is JSON: see `values/keys.py`. `fingerprint` is of the code that the newest run
    used, None if that could not be seen. `usage` are the token counts of its records, summed.
    """

    id: int
    name: str
    version: int | str
    key_recipe: str
    fingerprint: str | None
    created_at: float
    results: int
    failures: int
    records: int
    seconds: float
    cost: float
    usage: dict[str, int] = {}


class Call(msgspec.Struct, frozen=True):
    """A call that was sent and not answered: it may have been billed.

    `key` is what `current_key()` gave the step: the idempotency key to ask the provider about.
    `sent_at` is in seconds since 1970.
    """

    key: str
    step: str
    version: int | str
    run: int
    position: int
    sent_at: float
    input: Any


class RunInfo(msgspec.Struct, frozen=True):
    """One pass of a step over rows: by which process, with which code, and how it went.

    `ended` is the run's own last word (`finished`, `pilot ended`, `interrupted`, `failed: …`),
    None while it runs, or if it was killed; `state` tells these apart. `store` is the id of the
    store in which it ran; `is_merged` tells whether that is another one. `total` is the number of
    its rows when it began, None if that was not known.
    """

    id: int
    step: str
    version: int | str
    fingerprint: str | None
    store: str
    started_at: float
    updated_at: float
    ended: str | None
    host: str
    boot: str
    pid_namespace: int
    pid: int
    pid_ticks: int
    policy: str
    loss_window: str
    durability: str
    total: int | None
    meta: Any
    report: Report
    is_merged: bool = False

    @property
    def process(self) -> Process:
        """The process that ran it."""
        return Process(self.host, self.boot, self.pid_namespace, self.pid, self.pid_ticks)

    @property
    def state(self) -> RunState:
        """Where the run is now; `unknown` if its process is on another host or in a container."""
        if self.ended is None:
            states: dict[bool | None, RunState] = {True: "running", False: "killed"}
            return states.get(alive(self.process), "unknown")
        if self.ended in ("closed", "interrupted", PILOT_ENDED):
            return "stopped"
        return "failed" if self.ended.startswith("failed") else "finished"


_OUTCOME, _INPUT = 0x7FFFFFFF_00000000, 0xFFFFFFFF


def checksum(entry: Entry) -> int:
    """Return the 63-bit checksum of a record, over the bytes and storage classes of its values.

    The low 32 bits are those of identity and input, so that a hit need not read these: its identity
    is compared with the row's, which saves 0.4 µs.
    """
    identity, stored_input = entry.identity, entry.input
    if entry.row_digest is not None:
        identity += entry.row_digest
    if type(stored_input) is str:  # nearly always, and in one step
        of_input = xxh3_64_intdigest(identity + stored_input.encode(), 1)
    else:
        of_input = _digest(identity, stored_input)
    result = entry.result
    if entry.error is None and type(result) is str:
        of_outcome = xxh3_64_intdigest(entry.key + result.encode(), 1) & _OUTCOME
    else:
        of_outcome = _outcome(entry.key, result, entry.error)
    return of_outcome | of_input & _INPUT


def is_intact(key: bytes, result: Stored | None, error: str | None, checksum: int) -> bool:
    """Tell whether a record's key and outcome are what its checksum was made of."""
    if type(checksum) is not int:
        return False
    if error is None and type(result) is str:  # nearly always, and in one step
        return checksum & _OUTCOME == xxh3_64_intdigest(key + result.encode(), 1) & _OUTCOME
    return checksum & _OUTCOME == _outcome(key, result, error)


def _outcome(prefix: bytes, result: Stored | None, error: str | None) -> int:
    if error is not None:
        prefix += _digest(b"", error).to_bytes(8, "big")
    return _digest(prefix, result) & _OUTCOME


def _digest(prefix: bytes, data: Stored | None) -> int:
    if type(data) is str:
        return xxh3_64_intdigest(prefix + data.encode(), 1)
    if data is None:
        return xxh3_64_intdigest(prefix, 2)
    if type(data) is bytes:
        return xxh3_64_intdigest(prefix + data, 3)
    return xxh3_64_intdigest(prefix + repr(data).encode(), 4)  # rotten: we never write a number


def decoded(data: str | bytes | None) -> Any:
    """Decode a stored value; None stays None."""
    return None if data is None else decode(data)


class _Error(msgspec.Struct):
    type: str
    message: str
    traceback: str = ""


def decoded_error(text: str | None) -> dict[str, Any] | None:
    """Decode what a failure leaves: its type, message and traceback; None stays None.

    Raises:
        DecodeError: it is something else.
    """
    if text is None:
        return None
    try:
        msgspec.json.decode(text, type=_Error)
    except (TypeError, ValueError, RecursionError) as error:
        raise DecodeError(f"a saved failure cannot be read: {error}") from error
    fields: dict[str, Any] = decode(text)
    return fields
