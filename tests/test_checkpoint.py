"""Checkpoints are whole or absent, damage is found and named, and nothing in them can run."""

import hashlib
import itertools
import os
import pickle
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from training_runs import python, saved_dataset, settings_of, tree

import offrl
from offrl import checkpoint
from offrl.checkpoint import flatten, load_run, newest, read, restore, save
from offrl.errors import (
    ConfigError,
    CorruptDataError,
    IncompatibleVersionError,
    NotFoundError,
    OffrlError,
)
from offrl.events import Saved
from offrl.training import fit

STATE = {"params": {"policy": {"w": torch.arange(6.0).reshape(2, 3)}}, "t": torch.tensor(3.0)}


def saved(folder: Path, *steps: int) -> list[Path]:
    return [save(folder, step, {"state": STATE}, {"seconds": 1.5}) for step in steps]


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at % len(data)] ^= 4
    path.write_bytes(bytes(data))


def test_a_checkpoint_comes_back_bit_for_bit(tmp_path: Path):
    odd = {
        "a": {"b": torch.tensor([1e-40, -0.0, 3.0]), "c": torch.tensor(2.0, dtype=torch.float64)}
    }
    found = read(save(tmp_path, 7, {"state": odd}, {"spec": {"x": "y"}}))
    assert found.step == 7
    assert found.page["spec"] == {"x": "y"}
    again = restore({"state": odd}, found.tensors)["state"]
    for key, tensor in flatten(odd).items():
        assert flatten(again)[key].numpy().tobytes() == tensor.numpy().tobytes()
        assert flatten(again)[key].dtype == tensor.dtype


def test_aliased_expanded_and_transposed_tensors_are_saved_as_they_read(tmp_path: Path):
    base = torch.arange(6.0).reshape(2, 3)
    trees = {"state": {"a": base, "b": base, "c": base.T, "d": torch.tensor(1.0).expand(4)}}
    found = restore(trees, read(save(tmp_path, 0, trees, {})).tensors)["state"]
    assert torch.equal(found["c"], base.T)
    assert found["c"].is_contiguous()
    assert found["a"].data_ptr() != found["b"].data_ptr()


def test_restoring_keeps_the_order_of_the_template(tmp_path: Path):
    template = {"z": torch.zeros(1), "a": {"y": torch.zeros(1), "b": torch.zeros(1)}}
    found = restore(template, read(save(tmp_path, 0, template, {})).tensors)
    assert list(found) == ["z", "a"]
    assert list(found["a"]) == ["y", "b"]


def test_tensors_that_do_not_fit_are_named(tmp_path: Path):
    tensors = read(saved(tmp_path, 0)[0]).tensors
    wide = {"state": {**STATE, "params": {"policy": {"w": torch.zeros(9, 9)}}}}
    with pytest.raises(CorruptDataError, match="'state/params/policy/w' is missing or has another"):
        restore(wide, tensors)
    with pytest.raises(CorruptDataError, match="'state/more' is missing"):
        restore({"state": {"more": torch.zeros(1)}}, tensors)


@pytest.mark.parametrize("file", ["state.safetensors", "checkpoint.toml"])
def test_any_flipped_bit_of_the_newest_is_found_and_the_one_before_is_used(
    file: str, tmp_path: Path
):
    _, bad = saved(tmp_path, 10, 20)
    whole = (bad / file).read_bytes()
    for at in np.random.default_rng(0).integers(len(whole), size=40):
        (bad / file).write_bytes(whole)
        flip(bad / file, int(at))
        with pytest.warns(UserWarning, match=r"step_00000020.*Going on from step 10"):
            found = newest(tmp_path)
        assert found is not None
        assert found.step == 10


@pytest.mark.parametrize("file", ["state.safetensors", "checkpoint.toml"])
@pytest.mark.parametrize("keep", [0.0, 0.1, 0.5, 0.99])
def test_a_checkpoint_cut_short_is_found(file: str, keep: float, tmp_path: Path):
    _, bad = saved(tmp_path, 10, 20)
    data = (bad / file).read_bytes()
    (bad / file).write_bytes(data[: int(keep * len(data))])
    said = f"{file} is empty" if keep == 0 else "damaged|cannot be read"
    with pytest.raises(CorruptDataError, match=said):
        read(bad)
    with pytest.warns(UserWarning, match="Going on from step 10"):
        assert getattr(newest(tmp_path), "step", None) == 10


def test_a_step_or_size_that_was_edited_does_not_pass_for_what_was_saved(tmp_path: Path):
    page = saved(tmp_path, 10)[0] / "checkpoint.toml"
    page.write_text(page.read_text().replace("step = 10", "step = 90"))
    with pytest.raises(CorruptDataError, match="SHA-256 has changed"):
        read(page.parent)


def test_where_all_are_bad_each_is_listed_and_none_deleted(tmp_path: Path):
    one, two, three = saved(tmp_path, 1, 2, 3)
    (one / "state.safetensors").write_bytes(b"")
    (two / "checkpoint.toml").unlink()
    flip(three / "state.safetensors", 99)
    before = tree(tmp_path)
    with pytest.raises(CorruptDataError) as caught:
        newest(tmp_path)
    for said in (
        "step_00000001",
        "is empty",
        "step_00000002",
        "cannot be read",
        "step_00000003",
        "SHA-256 has changed",
    ):
        assert said in caught.value.cause
    assert tree(tmp_path) == before


def test_a_resumed_run_falls_back_on_the_checkpoint_before(tmp_path: Path):
    saved_dataset()
    whole = fit("bc", "toy/box-v0", out=tmp_path / "run", **settings_of("bc"))
    kept = tree(whole.dir / "seed_0" / "checkpoints")
    for name in ("step_00000060", "step_00000056"):
        flip(whole.dir / "seed_0" / "checkpoints" / name / "state.safetensors", 321)
    with pytest.warns(UserWarning, match="Going on from step 49"):
        fit("bc", "toy/box-v0", out=tmp_path / "run", resume=True)
    again = tree(whole.dir / "seed_0" / "checkpoints")
    for name in kept:
        if name.endswith("state.safetensors"):
            assert again[name] == kept[name]


def test_checkpoints_are_ordered_by_number_not_by_spelling(tmp_path: Path):
    saved(tmp_path, 99_999_999, 100_000_000)
    assert getattr(newest(tmp_path), "step", None) == 100_000_000


def test_a_format_of_the_future_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as later:
        later.setattr(checkpoint, "FORMAT", 2)
        folder = saved(tmp_path, 1)[0]
    with pytest.raises(IncompatibleVersionError, match="has format 2; this offrl reads format 1"):
        read(folder)


class Payload:
    def __reduce__(self) -> Any:
        return os.mkdir, ("it-ran",)


@pytest.mark.parametrize("force", [False, True])
def test_a_pickle_that_is_called_a_checkpoint_is_refused_and_does_not_run(
    force: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    if force:
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    folder = saved(tmp_path, 5)[0]
    torch.save(Payload(), tmp_path / "zip.pt")
    for data in (pickle.dumps(Payload()), (tmp_path / "zip.pt").read_bytes()):
        (folder / "state.safetensors").write_bytes(data)
        with pytest.raises(CorruptDataError, match="SHA-256 has changed"):
            read(folder)
        page = (folder / "checkpoint.toml").read_bytes().partition(b"\n")[2]
        line = f'sha256 = "{hashlib.sha256(data + page).hexdigest()}"\n'.encode()
        (folder / "checkpoint.toml").write_bytes(line + page)  # someone who knows the format
        with pytest.raises(CorruptDataError, match="cannot be read"):
            read(folder)
    assert not Path("it-ran").exists()


def test_a_save_that_fails_says_so_and_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    saved(tmp_path, 1)
    before = tree(tmp_path)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", full)
        for step in (1, 2):
            with pytest.raises(OffrlError, match="could not be saved: No space left") as caught:
                saved(tmp_path, step)
            assert "--resume" in caught.value.remedy
    assert tree(tmp_path) == before
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step_00000001"]


def test_training_stops_where_a_checkpoint_cannot_be_saved_and_goes_on_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    saved_dataset()
    events: list[Any] = []
    real = checkpoint.write_file

    def refuse(path: Path, data: bytes) -> None:
        if "step_00000021" in str(path):
            raise PermissionError(13, "Permission denied")
        real(path, data)

    with monkeypatch.context() as broken:
        broken.setattr(checkpoint, "write_file", refuse)
        with pytest.raises(OffrlError, match="step_00000021 could not be saved: Permission denied"):
            fit(
                "bc",
                "toy/box-v0",
                out=tmp_path / "run",
                on_event=events.append,
                **settings_of("bc"),
            )
    assert [event.step for event in events if isinstance(event, Saved)] == [0, 7, 14]
    again = fit("bc", "toy/box-v0", out=tmp_path / "run", resume=True)
    assert getattr(newest(again.dir / "seed_0"), "step", None) == 60


SMALL_FILES = """
import resource, signal, sys
from offrl.errors import OffrlError
from offrl.events import Saved
from offrl.training import fit
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
def limit(event):
    if getattr(event, "step", 0) == 14:
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, resource.RLIM_INFINITY))
try:
    fit("bc", "toy/box-v0", out=sys.argv[1], steps=60, save_every=7, log_every=30, hidden_size=8,
        batch_size=16, on_event=limit)
except OffrlError as error:
    print(error.cause, error.remedy, sep="|")
    sys.exit(error.exit_code)
"""


def test_a_file_that_may_not_grow_stops_training_with_the_last_checkpoint_whole(tmp_path: Path):
    saved_dataset()
    process = python(SMALL_FILES, str(tmp_path / "run"))
    told, errors = process.communicate(timeout=120)
    assert process.returncode == 1, errors
    assert "step_00000021 could not be saved: File too large" in told
    assert getattr(newest(tmp_path / "run" / "seed_0"), "step", None) == 14
    assert not list((tmp_path / "run").rglob("*.tmp*"))


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path):
    saved_dataset()
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OffrlError, match="run cannot be written: Not a directory"):
        fit("bc", "toy/box-v0", out=tmp_path / "file" / "run", **settings_of("bc"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_is_named(tmp_path: Path):
    saved_dataset()
    closed = tmp_path / "closed"
    closed.mkdir()
    closed.chmod(0o500)
    try:
        with pytest.raises(OffrlError, match="cannot be written: Permission denied"):
            fit("bc", "toy/box-v0", out=closed / "run", **settings_of("bc"))
    finally:
        closed.chmod(0o700)
    assert list(closed.iterdir()) == []


def test_killed_inside_save_a_whole_checkpoint_is_left(tmp_path: Path):
    rng = np.random.default_rng(0)
    for attempt in range(12):
        folder = tmp_path / str(attempt)
        saved_once, child = saved(folder, 0), os.fork()
        if child == 0:
            _save_forever(folder)
        time.sleep(0.01 + 0.15 * rng.random())
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        assert saved_once[0].exists()
        found = newest(folder)  # a warning would be an error: none of them is torn
        assert found is not None
        if "k" in found.page:
            expected = torch.full((64, 64), float(found.page["k"]))
            assert torch.equal(found.tensors["state/w"], expected)


def _save_forever(folder: Path) -> None:
    try:
        for k in itertools.count():  # every third replaces a checkpoint of the same step
            save(folder, 1 + k // 3, {"state": {"w": torch.zeros(64, 64) + k}}, {"k": k})
    finally:
        os._exit(1)


def trained(tmp_path: Path, **changes: Any) -> Path:
    saved_dataset()
    return fit("bc", "toy/box-v0", out=tmp_path / "run", **settings_of("bc", **changes)).dir


def test_a_policy_is_loaded_by_seed_and_by_step(tmp_path: Path):
    folder, obs = trained(tmp_path, seeds=(3, 1)), [0.0] * 4
    run = load_run(folder)
    assert run.seeds == (3, 1)
    first, last = run.policy(1, 0).predict(obs), run.policy(1).predict(obs)
    assert first != last
    assert run.policy(1, 60).predict(obs) == last
    assert offrl.load_policy(folder / "seed_1").predict(obs) == last
    assert offrl.load_policy(f"run:{folder}").predict(obs) == run.policy().predict(obs)


def test_what_is_not_there_is_answered_with_what_is(tmp_path: Path):
    folder = trained(tmp_path, seeds=(0, 4), steps=10)
    run = load_run(folder)
    with pytest.raises(NotFoundError, match=r"has no seed 2\. It has 0, 4"):
        run.policy(2)
    with pytest.raises(NotFoundError, match=r"no checkpoint '8'\. Use last, or one of 0, 7, 10"):
        run.policy(4, 8)
    with pytest.raises(NotFoundError, match="no checkpoint 'best'"):
        run.policy(4, "best")
    for name in ("seed_2", "seed_x"):
        with pytest.raises(NotFoundError, match=f"There is no .*{name}"):
            load_run(folder / name)
    with pytest.raises(NotFoundError, match=r"no run in .*runn\. Did you mean '.*run'"):
        load_run(folder.with_name("runn"))
    shutil.rmtree(folder / "seed_4" / "checkpoints")
    with pytest.raises(NotFoundError, match=r"no checkpoint yet.*--resume"):
        run.policy(4)


def test_a_network_of_ones_own_that_does_not_fit_is_refused(tmp_path: Path):
    run = load_run(trained(tmp_path, steps=10))
    with pytest.raises(ConfigError, match="policy network does not fit the checkpoint"):
        run.policy(network=torch.nn.Linear(2, 2))


def test_a_checkpoint_is_plain_safetensors_with_flat_names(tmp_path: Path):
    folder = trained(tmp_path, steps=10) / "seed_0" / "checkpoints" / "step_00000010"
    names = set(safetensors.torch.load_file(folder / "state.safetensors"))
    for name in (
        "state/params/policy/net.head.weight",
        "state/buffers/policy/normalize.obs_mean",
        "state/adam/policy/t",
        "anchor/params/policy/log_std",
    ):
        assert name in names
