"""`ckpt doctor` says what a bug tracker needs, and nothing that anybody wrote into the store."""

from __future__ import annotations

import json
import os

import apsw
import hostile
import pytest
from cli_helpers import invoke

import checkpointdb as ckpt

SECRET = "S3cr3t"


def planted(directory):
    """Return a store with a secret at every place that takes one."""
    folder = directory / f"{SECRET}-folder"
    folder.mkdir()
    path = str(folder / f"{SECRET}.ckpt")

    class S3cr3tError(Exception):
        pass

    def label(row):
        if row["n"] == 1:
            raise S3cr3tError(SECRET)
        if row["n"] == 2:
            raise KeyError(SECRET)
        return {SECRET: SECRET, "blob": (SECRET,)} if row["n"] else SECRET

    class S3cr3tPolicy:
        def due(self, pending):
            return True

        def __repr__(self):
            return SECRET

    step = ckpt.step(path, version=SECRET, name=SECRET, meta={SECRET: SECRET}, save=S3cr3tPolicy())
    label = step(label)
    list(label.run([{"n": n, SECRET: SECRET} for n in range(5)], on_error="record", ledger=True))
    with pytest.raises(S3cr3tError):
        list(label.run([{"n": 1, SECRET: SECRET}]))
    label.store.close()
    hostile_too = (
        "update runs set ended = 'failed: S3cr3t' where id = 1",
        "update runs set host = 'S3cr3t', boot = 'S3cr3t', durability = 'S3cr3t'",
        "update step_code set fingerprint = 'S3cr3t', captured = '\"S3cr3t\"'",
        "insert into sent_calls select key, 1, 1, 0, 1.0, input, 0 from records limit 1",
        "insert into system_claims values (x'00', 'S3cr3t', 1.0)",
        "create table S3cr3t (S3cr3t)",
    )
    with hostile.opened(path) as db:
        for statement in hostile_too:
            db.execute(statement)
    return path


def everything(path):
    with apsw.Connection(path) as db:
        keys = [key for (key,) in db.execute("select lower(hex(key)) from records")]
    return [SECRET.lower(), SECRET.encode().hex(), 'ckpt"', *keys]


@pytest.mark.parametrize("damage", [None, "records", "schema", "cut", "not a store", "nothing"])
def test_no_planted_secret_is_in_the_report(tmp_path, damage):
    """Names, paths, versions, meta, failures, inputs, results, hosts; damaged or whole."""
    path = planted(tmp_path)
    forbidden = [*everything(path), os.uname().nodename.lower() + '"', str(tmp_path).lower()]
    if damage == "records":
        with hostile.opened(path) as db:
            db.execute("update records set result = 'S3cr3t'")
            db.execute("update steps set results = 'S3cr3t', failures = x'5333637233'")
            db.execute("update records set attempts = 'S3cr3t', error = 'S3cr3t' where error <> 1")
    elif damage == "schema":
        with hostile.opened(path) as db:
            db.execute("create trigger S3cr3t after insert on records begin select 'S3cr3t'; end")
    elif damage == "cut":
        os.truncate(path, os.path.getsize(path) // 2)
    elif damage == "not a store":
        with open(path, "w") as file:
            file.write(SECRET * 1000)
    elif damage == "nothing":
        os.unlink(path)
    done = invoke("doctor", path)
    assert done.exit_code == 0
    shown = (done.stdout + done.stderr).lower()
    assert [it for it in forbidden if it in shown] == []
    told = json.loads(done.stdout)
    assert told["versions"]["checkpointdb"] == ckpt.__version__
    if damage is None:
        assert told["store"]["problems"] == 0
        assert told["store"]["rows"]["records"] == 5
        assert told["store"]["failures"] == {"KeyError": 1, "another": 1}
        assert told["store"]["runs"]["ended"] == {"failed": 2}
        assert told["file"]["store"]["mode"] == "0o600"
    elif damage == "records":
        assert told["store"]["problems"] > 0
    else:
        assert told["store"]["error"].endswith("Error")
