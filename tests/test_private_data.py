"""docs/private-data.md is true: its code runs, and what it keeps out is in no byte of a file."""

from __future__ import annotations

import re
from pathlib import Path

from stores import files_beside

PAGE = (Path(__file__).parent.parent / "docs" / "private-data.md").read_text(encoding="utf-8")


def test_the_code_of_the_page_keeps_out_what_it_says(tmp_path, monkeypatch, capsys):
    """The blocks run in one namespace, in an empty folder; the stores have none of the secrets."""
    monkeypatch.chdir(tmp_path)
    space = {}
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)):
        path = tmp_path / f"block_{number}.py"
        path.write_text(block)
        exec(compile(block, str(path), "exec"), space)
        path.unlink()
    assert capsys.readouterr().out.splitlines() == [
        "no notes for [redacted], asked with [redacted]",
        "[16]",
    ]
    space["summarise"].store.close()
    space["count"].store.close()
    data = b"".join(files_beside(str(tmp_path / "patients.ckpt")).values())
    assert b'"words":2' in data and b"[redacted]" in data
    for secret in (b"zorro@", b"diego@", b"sk-12345", b"two words", b"private letter"):
        assert secret not in data
