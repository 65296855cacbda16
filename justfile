# `just` lists what there is; CONTRIBUTING.md says when to use it.

default:
    @just --list --unsorted

# the tests, on as many workers as suit the machine
test *args:
    uv run pytest {{args}}

# the tests that take seconds each
slow *args:
    uv run pytest -m "slow and not soak" {{args}}

# the long runs: a thousand signals, a thousand kills
soak *args:
    uv run pytest -m soak {{args}}

# the test files that belong to file/, values/ and the committer
cover_tests := "absent bad_day canonical captured cli_change cli_inspect cloud codec collisions \
    committer connection direct doctor exact_tables failures formats handles hostile \
    inputs keeper key_index keys ledger left_behind lookups merge migrations mounts \
    parts planning private_data redact replay salvage samples seldom shared shipping \
    stale step store system timeouts travel unstorable usage values verbs"

# branch coverage of the file, the values and the committer by these; fails below 100 %
cover *args:
    uv run coverage erase
    -uv run coverage run -m pytest -m "not soak" {{args}} $(printf 'tests/test_%s.py ' {{cover_tests}})
    uv run coverage combine -q
    uv run coverage report -m --skip-covered --fail-under=100 --include="checkpointdb/file/*,checkpointdb/values/*,checkpointdb/engine/committer.py,checkpointdb/engine/beside.py"

# mutants of the committer, the key index, the keys and the policies
mutate *args:
    uv run --group mutation mutmut run {{args}}
    uv run --group mutation mutmut results

# lint, layers and types
check:
    uv run ruff check .
    uv run ruff format --check .
    uv run lint-imports
    uv run mypy
    uv run pyright

# the documentation site, at http://127.0.0.1:8000
docs:
    uv run --group docs mkdocs serve

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
