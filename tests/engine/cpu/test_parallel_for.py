"""Worker threads: every item once, whoever works, however many callers there are."""

import os
import threading
import time

import numpy as np
import pytest

from ssi_cupy.engine import backend
from ssi_cupy.engine.backend import Loop
from ssi_cupy.engine.cpu import compile_cache, parallel_for, threads


@pytest.fixture(autouse=True)
def same_threads_afterwards():
    number = backend.num_threads()
    yield
    backend.set_num_threads(number)


@Loop
def count(start, stop, times, rounds):
    for item in range(start, stop):
        for _ in range(rounds):
            times[item] += 1


@Loop
def who(start, stop, scratch, places, rounds):
    """Which scratch memory, so which worker, did an item."""
    for item in range(start, stop):
        for _ in range(rounds):
            scratch[0] = scratch[0] ** 2 - 1.5  # nothing that a compiler could see through
        places[item] = scratch.ctypes.data


@Loop
def fail(start, stop, times):
    for item in range(start, stop):
        if item == 7:
            raise ValueError("seven")
        times[item] += 1


@pytest.mark.parametrize("workers", [1, 2, 3, 8])
@pytest.mark.parametrize("n", [0, 1, 2, 3, 31, 32, 33, 1000])
def test_every_item_is_done_once(workers, n):
    backend.set_num_threads(workers)
    times = np.zeros(n + 1)
    for _ in range(50):
        count(n, times, 1)
    np.testing.assert_array_equal(times, [50] * n + [0])


def test_helpers_help_and_come_again_after_they_slept():
    backend.set_num_threads(2)
    for _ in range(2):
        places = np.zeros(400)
        assert any(helped(places) for _ in range(100))
        deadline = time.monotonic() + 30
        while threads._threads.asleep < threads._threads.running and time.monotonic() < deadline:
            time.sleep(0.01)
        assert threads._threads.asleep == threads._threads.running > 0


def helped(places):
    who(len(places), places, 20_000, scratch=8)
    first, *others = {places[i] for i in range(len(places))}
    assert all(abs(first - other) >= 64 for other in others)  # not on one cache line
    return bool(others)


def test_many_callers_at_once():
    backend.set_num_threads(3)
    found = [np.zeros(5000) for _ in range(6)]

    def call(times):
        for _ in range(100):
            count(len(times), times, 3)

    callers = [threading.Thread(target=call, args=(times,)) for times in found]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    for times in found:
        np.testing.assert_array_equal(times, 300)


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_in_a_loop_is_told_and_does_no_further_harm(workers):
    backend.set_num_threads(workers)
    times = np.zeros(64)
    with pytest.raises(RuntimeError, match="a compiled loop failed"):
        fail(64, times)
    times[:] = 0
    count(64, times, 1)
    np.testing.assert_array_equal(times, 1)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_has_helpers_of_its_own():
    backend.set_num_threads(2)
    count(64, np.zeros(64), 1)
    child = os.fork()
    if not child:
        times = np.zeros(640)
        for _ in range(10):
            count(640, times, 1)
        os._exit(0 if (times == 10).all() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_job_that_ended_holds_no_array():
    backend.set_num_threads(2)
    times = np.zeros(6400)
    count(6400, times, 1)
    times.resize(1)  # refuses where anything refers to the array


@pytest.mark.parametrize(
    "limit, expected",
    [
        ("100000 100000", 1),
        ("150000 100000", 2),
        ("max 100000", 4),
        ("900000 100000", 4),
        (None, 4),
    ],
)
def test_a_container_may_use_fewer_processors_than_it_sees(monkeypatch, tmp_path, limit, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    file = tmp_path / "cpu.max"
    if limit:
        file.write_text(limit)
    assert threads.processors(file) == expected


def test_where_nothing_can_be_cached_loops_are_compiled_again(monkeypatch, caplog):
    monkeypatch.setattr("numba.core.caching.CacheImpl._locator_classes", [])
    monkeypatch.setattr(compile_cache, "_said", {})
    parallel_for.compiled_share.cache_clear()
    times = np.zeros(64)
    for _ in range(2):
        Loop(count.loop)(64, times, 1)
    np.testing.assert_array_equal(times, 2)
    assert (
        len(compile_cache._said["none"]) > 1 == caplog.text.count("compiled loops cannot be kept")
    )
    parallel_for.compiled_share.cache_clear()
