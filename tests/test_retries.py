"""Retries inside a call are the user's own decorator under ours: stamina and tenacity."""

from __future__ import annotations

import httpx
import pytest
import stamina
import tenacity
from drivers import ASYNC, SEQUENTIAL, TASKS, THREADS

import checkpointdb as ckpt
from checkpointdb import Store


class Busy(Exception):
    pass


class Flaky:
    """Fails twice for every third row; for row 7 always."""

    def __init__(self):
        self.calls = []

    def __call__(self, row):
        self.calls.append(row)
        if row == 7 or (row % 3 == 0 and self.calls.count(row) <= 2):
            raise Busy(f"row {row}")
        return row * 10


def by_stamina(driver, flaky):
    retry = stamina.retry(on=Busy, attempts=4, wait_initial=0.001, wait_max=0.002, wait_jitter=0)

    if driver.is_async:

        @retry
        async def label(row):
            return flaky(row)
    else:

        @retry
        def label(row):
            return flaky(row)

    return label


def by_tenacity(driver, flaky):
    retry = tenacity.retry(
        retry=tenacity.retry_if_exception_type(Busy), stop=tenacity.stop_after_attempt(4),
        wait=tenacity.wait_fixed(0.001), reraise=True,
    )  # fmt: skip

    if driver.is_async:

        @retry
        async def label(row):
            return flaky(row)
    else:

        @retry
        def label(row):
            return flaky(row)

    return label


each = pytest.mark.parametrize("driver", [SEQUENTIAL, THREADS, ASYNC, TASKS], ids=str)
both = pytest.mark.parametrize("retried", [by_stamina, by_tenacity])


@each
@both
def test_retries_are_one_call_and_one_record(store_path, driver, retried):
    """A row that came good at the third try is one record, of one attempt of ours; its retries are
    not repeated by the next run."""
    flaky = Flaky()
    label = ckpt.step(store_path, version=1)(retried(driver, flaky))
    assert label.name == "label"
    assert driver.run(label, range(7)) == [row * 10 for row in range(7)]
    assert sorted(flaky.calls) == [0, 0, 0, 1, 2, 3, 3, 3, 4, 5, 6, 6, 6]
    assert driver.run(label, range(7)) == [row * 10 for row in range(7)]
    assert len(flaky.calls) == 13
    with Store(store_path) as store:
        assert [record.attempts for record in store.records()] == [1] * 7


@each
@both
def test_what_retries_cannot_mend_is_one_failure(store_path, driver, retried):
    """When the retries are used up the user's own exception counts, once, as one attempt; the next
    run lets them try again."""
    flaky = Flaky()
    label = ckpt.step(store_path, version=1)(retried(driver, flaky))
    for attempts in (1, 2):
        results = driver.run(label, range(10), on_error="record")
        assert [r.error_type for r in results if isinstance(r, ckpt.Failed)] == ["Busy"]
        assert (results[7].message, results[7].attempts) == ("row 7", attempts)
        assert flaky.calls.count(7) == 4 * attempts
    with pytest.raises(Busy, match="row 7"):
        driver.run(label, range(10))


def test_tenacitys_own_error_passes_through(store_path):
    """RetryError (without reraise) is the same object to the user, and a record's error type."""

    @ckpt.step(store_path, version=1)
    @tenacity.retry(stop=tenacity.stop_after_attempt(2), wait=tenacity.wait_none())
    def label(row):
        raise httpx.ConnectError("refused")

    with pytest.raises(tenacity.RetryError):
        list(label.run([1]))
    assert next(label.run([1], on_error="record")).error_type == "RetryError"
    assert label.__wrapped__.statistics["attempt_number"] == 2


@pytest.mark.parametrize("retried", [by_stamina, by_tenacity])
def test_code_under_a_retry_decorator_is_fingerprinted(store_path, retried):
    """The same retried function twice is no change of code: no warning."""
    for _ in range(2):
        label = ckpt.step(store_path, version=1)(retried(SEQUENTIAL, Flaky()))
        assert list(label.run([1])) == [10]
        label.store.close()
