"""The calls in which benchmarks.kills lets a process die are there."""

import importlib
from functools import reduce

import pytest

from benchmarks.kills import CALLS, PLACES


@pytest.mark.parametrize("place", PLACES)
def test_a_place_is_a_function_of_its_module(place):
    module, path = PLACES[place]
    assert callable(reduce(getattr, path.split("."), importlib.import_module(module)))
    assert CALLS[place] > 0
