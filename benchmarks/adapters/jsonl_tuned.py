"""JSON lines by hand and tuned: msgspec, an xxh3 key, an fsync every 1,000 rows, all in memory."""

import os

import msgspec

from ..data import fast_key

SAVES, ROWS, IMPORTS = "1,000 rows", 100_000, "msgspec, xxhash"
HOW = "lines appended in one write with an fsync every 1,000 rows; every result stays in memory"
encode = msgspec.json.Encoder().encode
read_line = msgspec.json.Decoder(tuple[str, msgspec.Raw]).decode


def run(rows, step):
    """Read all lines, then append the missing ones."""
    done, lines = read(), []
    with open("results.jsonl", "ab", buffering=0) as file:
        for row in rows:
            key = fast_key(row).hex()
            if key in done:
                msgspec.json.decode(done[key])
                continue
            result = encode(step(row))
            done[key] = result
            lines.append(b'["%s",%s]\n' % (key.encode(), result))
            if len(lines) == 1000:
                save(file, lines)
                lines = []
        save(file, lines)


def save(file, lines):
    """Append the lines, durably."""
    file.write(b"".join(lines))
    os.fsync(file.fileno())


def read():
    """Return the results by key, as bytes; a half-written last line does not count."""
    if not os.path.exists("results.jsonl"):
        return {}
    with open("results.jsonl", "rb") as file:
        return dict(read_line(line) for line in file if line.endswith(b"]\n"))
