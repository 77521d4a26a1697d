import os
import signal
import sys
import time

import numpy as np
import pytest

from nasdm_wsi.annotations.dense import commonest, dense
from nasdm_wsi.isolated import IsolatedError, isolated

# Generators that the other process imports from this module.


def numbers(count):
    print("what a library prints is no result")
    for k in range(count):
        yield np.full((1000, 1000), k)


def dies():
    yield 1
    os.kill(os.getpid(), signal.SIGSEGV)


def hangs():
    yield os.getpid()
    time.sleep(600)


def fails():
    raise ValueError("of two\nlines")
    yield


def hungry():
    yield np.ones(1 << 29)


def test_results_come_one_by_one():
    arrays = list(isolated(numbers, 3))
    assert [array.mean() for array in arrays] == [0, 1, 2]
    assert arrays[0].flags.writeable


@pytest.mark.parametrize(
    ("function", "limits", "reason"),
    [
        (dies, {}, "SIGSEGV"),
        (hangs, {"seconds": 3}, "more than 3 s"),
        (fails, {}, "of two lines"),
    ],
)
def test_what_ends_a_parser_is_an_error_here(function, limits, reason):
    with pytest.raises(IsolatedError, match=reason):
        list(isolated(function, **limits))


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited on Linux alone")
def test_memory_is_limited():
    with pytest.raises(IsolatedError, match="memory"):
        list(isolated(hungry, memory=1 << 30))


@pytest.mark.skipif(os.name == "nt", reason="has no signal 0")
def test_no_process_stays_when_results_are_left():
    results = isolated(hangs)
    process = next(results)
    os.kill(process, 0)  # it is there
    results.close()
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


@pytest.mark.parametrize("top", [300, 2**31 - 1])
@pytest.mark.parametrize("kind", ["int16", "uint8", "int32", "uint64", "float32", "bool"])
def test_dense_labels_are_those_of_numpy(kind, top):
    rng = np.random.default_rng(0)
    labels = rng.choice(np.array([-3, 0, 1, 7, 100, top]), (3000, 700))
    labels = labels.astype(kind) if kind not in ("uint8", "bool", "uint64") else labels.clip(0)
    labels = labels.astype(kind)
    ids, expected = np.unique(np.maximum(labels.astype(float), 0), return_inverse=True)
    instances, found = dense(labels)
    assert instances.dtype == np.int32
    np.testing.assert_array_equal(instances, expected.reshape(labels.shape))
    np.testing.assert_array_equal(found.astype(float), ids[1:])


def test_nan_and_nothing_are_background():
    assert not dense(np.full((4, 5), np.nan))[0].any()
    assert dense(np.zeros((0, 5), np.uint8))[0].shape == (0, 5)


def test_commonest_type_of_each_instance():
    rng = np.random.default_rng(1)
    instances = rng.integers(0, 40, (3000, 700)).astype(np.int32)
    types = rng.integers(0, 7, (3000, 700)).astype(np.uint8)
    counts = np.zeros((40, 7), int)
    np.add.at(counts, (instances, types), 1)
    np.testing.assert_array_equal(commonest(instances, types), counts[1:].argmax(1))
