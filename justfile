# `just` lists what there is; CONTRIBUTING.md says when to use it.

default:
    @just --list --unsorted

# the tests of a minute, on as many workers as suit the machine
fast *args:
    uv run pytest -m "not slow and not soak" {{args}}

# all tests
test *args:
    uv run pytest {{args}}

# the long runs: a thousand signals, a thousand kills
soak *args:
    uv run pytest -m soak {{args}}

# lint, layers and types
check:
    uv run ruff check .
    uv run ruff format --check .
    uv run lint-imports
    uv run mypy

# mend what ruff can mend
fix:
    uv run ruff check --fix .
    uv run ruff format .

# what must pass before anything lands
ci:
    .ci/run

# measure, and compare with the recorded results
bench *args:
    uv run --group bench python -m benchmarks --quick --compare {{args}}
