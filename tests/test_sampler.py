"""Which rows a step sees depends on (seed, step) and on nothing else."""

import itertools

import torch
from hypothesis import given
from hypothesis import strategies as st

from offrl.batch import Batch, Table
from offrl.sampler import Sampler, mix
from offrl.testing import toy_dataset

TABLE = Table.of(toy_dataset(discrete=True).transitions)


def equal(one: Batch, two: Batch):
    leaves = [*one[:6], *one.columns.values(), *one.noise.values()]
    others = [*two[:6], *two.columns.values(), *two.noise.values()]
    return all(
        torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0))
        for a, b in zip(leaves, others, strict=True)
    )


@given(st.integers(0, 1000), st.integers(0, 10**9))
def test_a_batch_is_a_pure_function_of_seed_and_step(seed: int, step: int):
    draws = {"a": (2,), "b": ()}
    torch.manual_seed(step % 7)  # whatever the program drew before
    first = Sampler(TABLE, seed, 16, draws=draws)
    torch.randn(3)
    second = Sampler(TABLE, seed, 16, draws=draws)
    second[step + 1]  # whatever was drawn in between
    assert equal(first[step], second[step])
    assert equal(first[step], first[step])


def test_another_seed_or_another_step_draws_other_rows():
    drawn = [
        Sampler(TABLE, seed, 32).index(step).tolist() for seed in range(5) for step in range(5)
    ]
    assert len({tuple(rows) for rows in drawn}) == 25


def test_rows_are_drawn_uniformly():
    rows = torch.cat([Sampler(TABLE, 3, 500).index(step) for step in range(400)])
    counts = torch.bincount(rows, minlength=len(TABLE)).double()
    expected = len(rows) / len(TABLE)
    statistic = float(((counts - expected).square() / expected).sum())
    freedom = len(TABLE) - 1
    assert abs(statistic - freedom) < 5 * (2 * freedom) ** 0.5  # chi-squared, five deviations


def test_only_the_chosen_rows_are_drawn_and_all_of_them():
    rows = torch.tensor([3, 5, 8])
    drawn = Sampler(TABLE, 0, 300, rows).index(0)
    assert set(drawn.tolist()) == {3, 5, 8}


def test_a_batch_holds_the_columns_and_the_next_observation_of_its_rows():
    column = torch.arange(len(TABLE)).float()
    sampler = Sampler(TABLE, 0, 64).with_columns({"row": column})
    index, batch = sampler.index(9), sampler[9]
    assert torch.equal(batch.columns["row"], column[index])
    assert torch.equal(batch.action, TABLE.action[index])
    assert torch.equal(batch.obs, TABLE.observations[TABLE.obs_row[index]])
    assert torch.equal(batch.next_obs, TABLE.observations[TABLE.obs_row[index] + 1])


def test_draws_are_standard_normal_of_the_declared_shape_and_apart_from_the_rows():
    sampler = Sampler(TABLE, 0, 4000, draws={"smoothing": (3,), "scale": ()})
    noise = sampler.noise(2)
    assert noise["smoothing"].shape == (4000, 3)
    assert noise["scale"].shape == (4000,)
    assert abs(float(noise["smoothing"].mean())) < 0.05
    assert abs(float(noise["smoothing"].std()) - 1) < 0.05
    without = Sampler(TABLE, 0, 4000)
    assert torch.equal(without.index(2), sampler.index(2))
    assert without.noise(2) == {}


def test_mix_spreads_neighbouring_words_over_32_bits():
    seeds = [mix(a, b, c) for a, b, c in itertools.product(range(30), range(30), range(3))]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**32 for seed in seeds)
    for bit in range(32):  # each bit is set about half of the time
        share = sum(seed >> bit & 1 for seed in seeds) / len(seeds)
        assert 0.4 < share < 0.6


def test_mix_depends_on_every_word_in_its_place():
    assert len({mix(1, 2), mix(2, 1), mix(1), mix(1, 2, 0), mix(0, 1, 2)}) == 5
    changed = [bin(mix(5, step) ^ mix(5, step + 1)).count("1") for step in range(200)]
    assert 14 < sum(changed) / len(changed) < 18  # of 32 bits, a half
