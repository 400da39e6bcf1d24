import os

import pytest

from eqpool.evaluate.cores import map_on_cores


def square_and_process(number):
    return number**2, os.getpid()


def inverse(number):
    return 1 / number


@pytest.mark.parametrize("start_seconds", [0.0, 1e6])
def test_results_come_in_order_wherever_they_are_computed(start_seconds):
    results = list(map_on_cores(square_and_process, range(12), start_seconds, processes=2))
    assert [square for square, _ in results] == [number**2 for number in range(12)]
    elsewhere = {process for _, process in results} - {os.getpid()}
    assert bool(elsewhere) == (start_seconds == 0)


def test_one_core_starts_no_process():
    assert {process for _, process in map_on_cores(square_and_process, range(5), 0.0, processes=1)} == {os.getpid()}
    assert list(map_on_cores(inverse, [])) == []


@pytest.mark.parametrize("start_seconds", [0.0, 1e6])
def test_an_error_arrives(start_seconds):
    with pytest.raises(ZeroDivisionError):
        list(map_on_cores(inverse, [1, 2, 0, 3], start_seconds, processes=2))
