"""One LLM of Distilabel's with us in front: what is saved, under which key, and what is not."""

from __future__ import annotations

import gc
import pickle
import warnings

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("distilabel", reason="uv sync --group distilabel")
    from distilabel.models.llms import MixtureOfAgentsLLM, OpenAILLM
    from distilabel.steps.tasks import TextGeneration
    from distilabel_models import SavedEngine, SavedOpenAI, SavedSingle

from paid_server import PaidServer
from test_distilabel import prompts

import checkpointdb as ckpt
from checkpointdb import every

pytestmark = pytest.mark.filterwarnings("default")  # theirs


@pytest.fixture(autouse=True)
def collected():
    """Let go of Distilabel's clients and loops, which it leaves open, while warnings of it may."""
    yield
    gc.collect()


def chats(*texts):
    return [[{"role": "user", "content": text}] for text in texts]


def texts(outputs):
    return [text for one in outputs for text in one["generations"]]


def test_a_batch_engine_gets_what_is_missing_in_one_batch(store_path):
    llm = SavedEngine(store=store_path, version=1)
    llm.load()
    first = llm.generate(chats("a", "b"))
    llm.unload()
    llm.asked.clear()
    again = llm.generate(chats("a", "c", "b", "d"))
    assert [again[0], again[2]] == first
    assert llm.asked == [["c", "d"]]
    llm.unload()


def test_equal_inputs_are_separate_samples_over_batches_and_lives(store_path):
    llm = SavedEngine(store=store_path, version=1)
    found = texts(llm.generate(chats("a", "a")) + llm.generate(chats("a")))
    assert len(set(found)) == 3
    llm.unload()
    llm.asked.clear()
    assert texts(llm.generate(chats("a", "a", "a", "a")))[:3] == found
    assert llm.asked == [["a"]]
    llm.unload()


@pytest.mark.parametrize("change", [{"num_generations": 2}, {"temperature": 0.5}])
def test_the_number_and_the_parameters_are_in_the_key(store_path, change):
    llm = SavedEngine(store=store_path, version=1)
    for options in ({}, change):
        llm.generate(chats("a"), **options)
    assert len(llm.asked) == 2
    llm.unload()


def test_each_of_several_generations_is_saved_alone_where_the_model_gives_one_a_call(store_path):
    llm = SavedSingle(store=store_path, version=1)
    (found,) = llm.generate(chats("a"), num_generations=2)
    llm.unload()
    (more,) = llm.generate(chats("a"), num_generations=3)
    assert more["generations"][:2] == found["generations"]
    assert llm.asked == ["a"] * 3
    assert len(more["statistics"]["input_tokens"]) == 3
    llm.unload()


def test_no_none_is_saved_but_it_is_given_out(store_path):
    llm = SavedSingle(store=store_path, version=1)
    assert texts(llm.generate(chats("refused", "a"))) == [None, "answer 2"]
    llm.unload()
    assert texts(llm.generate(chats("refused", "a"))) == ["answer 3", "answer 2"]
    llm.unload()


@pytest.mark.parametrize("kind", [SavedSingle, SavedEngine])
def test_an_error_is_the_llms_own_and_what_returned_beside_it_is_saved(store_path, kind):
    llm = kind(store=store_path, version=1)
    llm.generate(chats("a"))
    if kind is SavedEngine:
        llm.gone = True
    with pytest.raises(ConnectionError, match="gone"):
        llm.generate(chats("b", "broken"))
    with ckpt.Store(store_path) as store:
        results = [record for record in store.records() if record.error is None]
    assert len(results) == (2 if kind is SavedSingle else 1)
    llm.unload()


def test_a_parameter_of_the_class_behind_can_be_set_and_is_dumped_without_the_policy(store_path):
    llm = SavedEngine(store=store_path, version=1, save=every(rows=5), meta={"team": "a"})
    assert llm.runtime_parameters_names["generation_kwargs"] == {"temperature": True}
    assert llm.dump()["store"] == store_path
    assert "save" not in llm.dump()


def test_it_travels_after_use_and_the_store_stays(store_path):
    llm = SavedSingle(store=store_path, version=1)
    llm.generate(chats("a"))
    llm.unload()
    llm._event_loop.close()
    llm._event_loop, llm._new_event_loop, llm._logger = None, False, None
    assert store_path.encode() in pickle.dumps(llm)
    assert b"answer" not in pickle.dumps(llm)


def test_another_release_of_ours_is_no_change_of_the_users(store_path, monkeypatch):
    async def another(row, ask):
        return await ask() | {}

    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for _ in range(2):
            llm = SavedSingle(store=store_path, version=1)
            assert texts(llm.generate(chats("a"))) == ["answer 1"]
            llm.unload()
            monkeypatch.setattr("checkpointdb.integrations.distilabel._generation", another)


def test_secrets_and_transport_are_neither_in_the_key_nor_stored(store_path):
    with PaidServer() as server:
        for key, timeout in ("secret-1", 5), ("secret-2", 6):
            llm = SavedOpenAI(
                model="m", base_url=server.url, api_key=key, timeout=timeout, max_retries=0,
                default_headers={"x-token": key}, store=store_path, version=1,
            )  # fmt: skip
            llm.load()
            llm.generate(chats(*prompts(range(3))))
            llm.unload()
        assert sorted(server.paid) == [0, 1, 2]
    with open(store_path, "rb") as file:
        assert b"secret" not in file.read()


def test_a_task_is_a_step_without_a_pipeline(store_path):
    def generate(rows: list[dict], task: TextGeneration) -> list[dict]:
        return next(task.process(rows))

    with PaidServer() as server:
        llm = OpenAILLM(model="m", base_url=server.url, api_key="none", max_retries=0)
        task = TextGeneration(llm=llm)
        task.load()
        label = ckpt.step(
            store_path, version=1, using=("task",), valid=lambda it: it["generation"] is not None
        )(generate)
        for number in 5, 8:
            rows = [{"instruction": text} for text in prompts(range(number))]
            found = list(label.run(rows, batch_size=4, using={"task": task}))
            assert [it["instruction"] for it in found] == [it["instruction"] for it in rows]
            assert all(it["generation"] for it in found)
        task.unload()
        assert sorted(server.paid) == list(range(8))


def test_a_batch_engine_may_be_the_aggregator_of_a_mixture(store_path):
    """A mixture calls its aggregator from within its event loop."""
    mixture = MixtureOfAgentsLLM(
        aggregator_llm=SavedEngine(store=store_path, version=1),
        proposers_llms=[SavedSingle(store=store_path, version=1)],
    )
    mixture.load()
    found = [texts(mixture.generate(chats("a", "b"))) for _ in range(2)]
    assert len(set(found[0])) == 2
    mixture.aggregator_llm.unload()
    mixture.proposers_llms[0].unload()


def test_an_output_that_no_store_can_hold_is_given_out(store_path):
    llm = SavedEngine(store=store_path, version=1, more={"state": object()})
    (found,) = llm.generate(chats("a"))
    assert found["state"] is llm.more["state"]
    assert len(llm.asked) == 1
    llm.unload()
