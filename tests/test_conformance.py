"""Every algorithm keeps every promise of the conformance suite, on every space it declares."""

from typing import Any

import pytest

from offrl import testing
from offrl.algos import ALGORITHMS, get

CASES = [(name, space) for name in ALGORITHMS for space in get(name).spaces]


@pytest.mark.parametrize(("name", "space"), CASES)
@pytest.mark.parametrize("check", testing.PROPERTIES, ids=lambda check: check.__name__)
def test_every_algorithm(check: Any, name: str, space: str):
    check(get(name), space == "discrete")
