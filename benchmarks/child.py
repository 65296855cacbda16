"""Run one function of the suite in this fresh process and print its figures."""

from __future__ import annotations

import importlib
import json
import resource
import sys


def peak_memory_mb() -> float:
    """Return the most memory this process has had, in MB."""
    try:
        with open("/proc/self/status") as status:
            line = next(line for line in status if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1000
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # bytes on macOS


def where() -> dict[str, str]:
    """Return which checkpointdb this process imports."""
    import checkpointdb

    return {"checkpointdb": checkpointdb.__file__}


def main() -> None:
    """Take a function `module:name` and its arguments as JSON."""
    module, name = sys.argv[1].split(":")
    function = getattr(importlib.import_module(module), name)
    figures = function(**json.loads(sys.argv[2])) or {}
    print("\nfigures:" + json.dumps(figures | {"memory_mb": peak_memory_mb()}), flush=True)


if __name__ == "__main__":
    main()
