"""The replay memory: rows come back as they were lived, the oldest make room."""

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from offrl.data.spec import Spec
from offrl.errors import ConfigError
from offrl.online.replay import Replay

BOX = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
SPEC = Spec(gymnasium.spaces.Box(-9, 9, (3,), np.float32), BOX)


def rows(first: int, n: int) -> dict[str, Any]:
    """n rows, each of whose values is its number."""
    number = torch.arange(first, first + n, dtype=torch.float32)
    return {
        "obs": number[:, None].expand(n, 3),
        "action": number[:, None].expand(n, 2),
        "reward": number,
        "next_obs": number[:, None].expand(n, 3) + 0.5,
        "terminated": number % 2,
        "behavior_log_prob": -number,
    }


@given(capacity=st.integers(3, 12), sizes=st.lists(st.integers(1, 3), max_size=12))
def test_it_holds_the_newest_rows_whole(capacity: int, sizes: list[int]):
    replay, written = Replay(SPEC, capacity), 0
    for n in sizes:
        replay.add(rows(written, n))
        written += n
    kept = min(written, capacity)
    assert len(replay) == kept
    batch = replay.gather(torch.arange(kept), {}, {})
    assert sorted(batch.reward.tolist()) == list(range(written - kept, written))
    assert torch.equal(batch.next_obs, batch.obs + 0.5)
    assert torch.equal(batch.action[:, 1], batch.reward)
    assert torch.equal(batch.terminated, batch.reward % 2)
    assert torch.equal(batch.behavior_log_prob, -batch.reward)


@given(written=st.integers(0, 14), more=st.integers(1, 3))
def test_a_memory_that_was_saved_goes_on_alike(written: int, more: int):
    one, two = Replay(SPEC, 6), Replay(SPEC, 6)
    for k in range(written):
        one.add(rows(k, 1))
    two.restore({name: tensor.clone() for name, tensor in one.tensors().items()})
    for replay in (one, two):
        replay.add(rows(written, more))
    assert len(one) == len(two)
    index = torch.arange(len(one))
    for a, b in zip(one.gather(index, {}, {})[:6], two.gather(index, {}, {})[:6], strict=True):
        assert torch.equal(a, b)


def test_more_rows_than_it_holds_are_refused():
    with pytest.raises(ConfigError, match="5 transitions at once do not fit") as caught:
        Replay(SPEC, 4).add(rows(0, 5))
    assert "--replay-size" in caught.value.remedy
