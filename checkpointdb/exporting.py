"""`ckpt export`: a store's inputs and results into a file. Knows the store as a reader only."""

from __future__ import annotations

import msgspec

from .looking import one_step, read
from .reading import Reader
from .shape import Shape
from .sinks import writing


class Exported(msgspec.Struct):
    """What an export did: rows written, and failures and inputs it could not show."""

    step: str
    version: int | str
    rows: int
    failures: int


def export(
    store: str, output: str, shape: Shape, step: str | None, version: int | str | None
) -> Exported:
    """Write the results of one step, in input order, with their inputs, from one snapshot.

    Rows that failed are left out and counted. A run may write to the store meanwhile.

    Raises:
        LookError: no such step, or more than one. TableError: `output`. StoreError: the store.
    """

    def copy(reader: Reader) -> Exported:
        info = one_step(reader, step, version)
        done = Exported(info.name, info.version, 0, info.failures)
        with writing(output) as write:
            for record in reader.records(info.name, info.version, status="ok"):
                where = f"row {record.position}"
                shape.check(record.input, where)
                write(shape.join(record.input, record.result, where))
                done.rows += 1
            reader.check_unchanged()
        return done

    return read(store, copy, again=output != "-")
