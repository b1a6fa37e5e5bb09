"""Checkpoints: a flat file of tensors and a page of TOML, whole or absent, each with a digest.

    RUN/run.toml  RUN/result.json
    RUN/seed_0/metrics.csv
    RUN/seed_0/checkpoints/step_00001000/state.safetensors     state/params/policy/...
                                        /checkpoint.toml       sha256, format, step, policy, spec
                  /checkpoints/selected_00000700/              the best so far by --select
    RUN/selection.json                                         what `offrl select` chose

No pickle anywhere. A damaged checkpoint is skipped for the one before it, and said so.
"""

import hashlib
import json
import shutil
import tomllib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import safetensors.torch
import tomli_w
from safetensors import SafetensorError
from torch import Tensor, nn

from offrl.data.durable import swap_folders, sync_folder, write_file
from offrl.data.spec import Spec
from offrl.errors import (
    ConfigError,
    CorruptDataError,
    IncompatibleVersionError,
    NotFoundError,
    OffrlError,
    suggest,
)
from offrl.learner import State
from offrl.nn import Head, policy_head
from offrl.policy import Policy
from offrl.run import FORMAT, Run, read_result, read_run

_STATE, _PAGE = "state.safetensors", "checkpoint.toml"
STEP, SELECTED = "step", "selected"  # kinds of checkpoints, and how their folders begin
SELECTION = "selection.json"


@dataclass(frozen=True)
class Checkpoint:
    """What was read of one checkpoint: flat tensors, and the page that describes them."""

    step: int
    tensors: dict[str, Tensor]
    page: dict[str, Any] = field(repr=False)


def flatten(tree: Any, prefix: str = "") -> dict[str, Tensor]:
    """{"params/policy/weight": tensor} of a nested dictionary."""
    if isinstance(tree, Tensor):
        return {prefix: tree}
    found: dict[str, Tensor] = {}
    for key, value in tree.items():
        found |= flatten(value, f"{prefix}/{key}" if prefix else key)
    return found


def restore(template: Any, tensors: dict[str, Tensor], prefix: str = "") -> Any:
    """`tensors` in the nesting, key order, device and type of `template`.

    The order matters: another order of a dictionary's keys would recompile every graph.
    """
    if isinstance(template, Tensor):
        if prefix not in tensors or tensors[prefix].shape != template.shape:
            raise CorruptDataError(
                f"The checkpoint does not fit the network: '{prefix}' is missing or has another "
                "shape.",
                "Resume with the settings that the run was started with.",
            )
        return tensors[prefix].to(template).clone().contiguous()
    return {
        key: restore(value, tensors, f"{prefix}/{key}" if prefix else key)
        for key, value in template.items()
    }


def under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The flat tensors whose names begin with prefix/, without it."""
    start = f"{prefix}/"
    return {k.removeprefix(start): t for k, t in tensors.items() if k.startswith(start)}


def save(
    seed_folder: Path,
    step: int,
    trees: dict[str, State],
    page: dict[str, Any],
    kind: str = STEP,
) -> Path:
    """Write checkpoint `step`, whole or not at all; an older one of that step is replaced.

    `kind` is STEP or SELECTED. Raises OffrlError where the disk refuses; it never says "saved" for
    what is not.
    """
    folder = seed_folder / "checkpoints" / f"{kind}_{step:08d}"
    staging = folder.with_name(f".{folder.name}.tmp")
    tensors = {k: t.detach().cpu().clone().contiguous() for k, t in flatten(trees).items()}
    try:
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        data = safetensors.torch.save(tensors)
        text = tomli_w.dumps({"format": FORMAT, "step": step, **page}).encode()
        write_file(staging / _STATE, data)
        write_file(staging / _PAGE, _digest_line(data, text) + text)
        if folder.exists():
            swap_folders(staging, folder)
            shutil.rmtree(staging)
        else:
            staging.rename(folder)
            sync_folder(folder.parent)
    except OSError as error:
        shutil.rmtree(staging, ignore_errors=True)
        raise OffrlError(
            f"Checkpoint {folder} could not be saved: {error.strerror or error}.",
            "Make room or mend the permissions, then go on with --resume.",
        ) from error
    return folder


def read(folder: Path) -> Checkpoint:
    """One checkpoint, its digest verified. CorruptDataError names the file and the fault."""
    path, page_path = folder / _STATE, folder / _PAGE
    remedy = "Use another --checkpoint, or train again."
    try:
        data, (line, newline, text) = path.read_bytes(), page_path.read_bytes().partition(b"\n")
        for file, content in ((path, data), (page_path, line)):
            if not content:
                raise CorruptDataError(f"{file} is empty.", remedy)
        if line + newline != _digest_line(data, text):
            raise CorruptDataError(f"{folder} is damaged: its SHA-256 has changed.", remedy)
        page = tomllib.loads(text.decode())
        if page["format"] != FORMAT:
            raise IncompatibleVersionError(
                f"{page_path} has format {page['format']}; this offrl reads format {FORMAT}.",
                "Install the offrl that wrote it.",
            )
        return Checkpoint(int(page["step"]), safetensors.torch.load(data), page)
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        raise CorruptDataError(f"{folder} cannot be read: {error}.", remedy) from error


def _digest_line(data: bytes, text: bytes) -> bytes:
    """The first line of the page: a digest of the tensors and of the rest of the page."""
    return f'sha256 = "{hashlib.sha256(data + text).hexdigest()}"\n'.encode()


def folders(seed_folder: Path, kind: str = STEP) -> dict[int, Path]:
    """The checkpoints of a seed by step, oldest first."""
    found = (seed_folder / "checkpoints").glob(f"{kind}_*")
    numbers = {path: path.name.removeprefix(f"{kind}_") for path in found}
    steps = {int(number): path for path, number in numbers.items() if number.isdigit()}
    return dict(sorted(steps.items()))


def newest(seed_folder: Path) -> Checkpoint | None:
    """The newest checkpoint that is whole, warning of each that was passed over; None for none.

    Raises CorruptDataError listing every fault where there are checkpoints and all are bad.
    """
    faults: list[str] = []
    for folder in reversed(folders(seed_folder).values()):
        try:
            found = read(folder)
        except CorruptDataError as error:
            faults.append(error.cause)
            continue
        for fault in faults:
            warnings.warn(f"{fault} Going on from step {found.step}.", stacklevel=2)
        return found
    if faults:
        raise CorruptDataError(
            f"No checkpoint of {seed_folder} can be used: {' '.join(faults)}",
            "Restore a copy, or train again into a new folder.",
        )
    return None


@dataclass(frozen=True)
class TrainedRun:
    """A run folder: what `fit` returns and `load_run` opens."""

    dir: Path
    run: Run
    seeds: tuple[int, ...]

    @property
    def result(self) -> dict[str, Any]:
        """What result.json holds; raises what `read_result` does."""
        return read_result(self.dir)

    def policy(
        self,
        seed: int | None = None,
        checkpoint: str | int = "last",
        network: nn.Module | None = None,
        device: str = "cpu",
    ) -> Policy:
        """The trained policy of a seed (the lowest by default) at "last", "selected" or a step.

        `network` is needed only where a user's algorithm brought a policy network of its own.
        """
        seed = self.seeds[0] if seed is None else seed
        if seed not in self.seeds:
            raise NotFoundError(
                f"{self.dir} has no seed {seed}.",
                f"It has {', '.join(str(s) for s in self.seeds)}.",
            )
        found = self.checkpoint(seed, checkpoint)
        return _policy(found, network, device)

    def checkpoint(self, seed: int, which: str | int = "last") -> Checkpoint:
        """The checkpoint of a seed: "last" is the newest whole one, a number is that step.

        "selected" is the one that RUN/selection.json names, else the best by `--select`.
        """
        seed_folder = self.dir / f"seed_{seed}"
        if str(which) == SELECTED:
            return self._selected(seed, seed_folder)
        if str(which) == "last":
            found = newest(seed_folder)
        else:
            steps = folders(seed_folder)
            if not str(which).isdigit() or int(which) not in steps:
                raise NotFoundError(
                    f"{seed_folder} has no checkpoint '{which}'.",
                    f"Use last, or one of {', '.join(map(str, steps)) or 'none yet'}.",
                )
            found = read(steps[int(which)])
        if found is None:
            raise NotFoundError(
                f"{seed_folder} has no checkpoint yet.", "Train it first, or go on with --resume."
            )
        return found

    @property
    def selection(self) -> dict[str, Any] | None:
        """What `offrl select` wrote of this run; None where it did not.

        Raises CorruptDataError where the file is damaged.
        """
        path = self.dir / SELECTION
        if not path.exists():
            return None
        try:
            page = json.loads(path.read_text("utf-8"))
            if page["format"] != FORMAT:
                raise IncompatibleVersionError(
                    f"{path} has format {page['format']}; this offrl reads format {FORMAT}.",
                    "Install the offrl that wrote it.",
                )
            _ = {int(seed): int(one["step"]) for seed, one in page["seeds"].items()}, page["picked"]
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise CorruptDataError(
                f"{path} cannot be read: {error}.", "Remove it, or run `offrl select` again."
            ) from error
        return page

    def _selected(self, seed: int, seed_folder: Path) -> Checkpoint:
        chosen = (self.selection or {"seeds": {}})["seeds"].get(str(seed))
        if chosen is not None:
            return self.checkpoint(seed, int(chosen["step"]))
        kept = folders(seed_folder, SELECTED)
        if not kept:
            raise NotFoundError(
                f"{seed_folder} has no checkpoint 'selected'.",
                "Use last; or train with --select, or run `offrl select`.",
            )
        return read(kept[max(kept)])

    def picked(self, seed: int, which: str | int = "last") -> str:
        """How the checkpoint `which` of a seed was picked, in a few words.

        Raises NotFoundError where there is none.
        """
        if str(which) == "last":
            fallen: Any = self.result.get("rolled_back")
            back = isinstance(fallen, dict) and str(seed) in fallen
            return "best by evaluation, which a fall brought back" if back else "last"
        if str(which) != SELECTED:
            return f"step {which}"
        selection = self.selection
        if selection is not None and str(seed) in selection["seeds"]:
            return str(selection["picked"])
        criterion = self.checkpoint(seed, which).page["selected"]["criterion"]
        return f"selected by {criterion} on held-out episodes, while training"


def _policy(found: Checkpoint, network: nn.Module | None, device: str) -> Policy:
    head = found.page.get("policy")
    if network is None and not head:
        raise ConfigError(
            "This run's algorithm brought a policy network of its own.",
            "Load it with load_run(DIR).policy(network=...), made by your algorithm's networks().",
        )
    module = network if network is not None else policy_head(**(head or {}))
    prefixes = ("state/params/policy/", "state/buffers/policy/")
    weights = {
        key.removeprefix(prefix): tensor.float()
        for prefix in prefixes
        for key, tensor in found.tensors.items()
        if key.startswith(prefix)
    }
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        fault = str(error).splitlines()[-1].strip()
        raise ConfigError(
            f"The policy network does not fit the checkpoint: {fault}",
            "Give the network that the run's algorithm made, with the same sizes.",
        ) from error
    return Policy(Spec.from_json(found.page["spec"]), module, device)


def load_run(ref: str | Path) -> TrainedRun:
    """The run of a folder RUN, or RUN/seed_3 for one seed of it.

    Raises NotFoundError where there is none, with the runs nearby.
    """
    folder = Path(str(ref).removeprefix("run:"))
    only: tuple[int, ...] | None = None
    if folder.name.startswith("seed_") and (folder.parent / "run.toml").exists():
        number = folder.name.removeprefix("seed_")
        if not (folder.is_dir() and number.isdigit()):
            raise NotFoundError(f"There is no {folder}.", f"Look into {folder.parent}.")
        only, folder = (int(number),), folder.parent
    if not (folder / "run.toml").is_file():
        nearby = [str(p.parent) for p in _runs_near(folder)]
        raise NotFoundError(
            f"There is no run in {folder}.{suggest(str(folder), nearby)}",
            "Name a folder that holds run.toml, such as the one `offrl train` printed.",
        )
    run = read_run(folder / "run.toml")
    return TrainedRun(folder, run, only or run.settings.seeds)


def _runs_near(folder: Path) -> Iterator[Path]:
    # Not deep into what may be a home folder: only `runs` itself is searched whole.
    for parent, pattern in (
        (folder, "*/run.toml"),
        (folder.parent, "*/run.toml"),
        (Path("runs"), "**/run.toml"),
    ):
        yield from islice(parent.glob(pattern), 50)


def load_policy(ref: str | Path, checkpoint: str | int = "last", device: str = "cpu") -> Policy:
    """The policy of a run: `RUN` (its lowest seed) or `RUN/seed_3`."""
    return load_run(ref).policy(checkpoint=checkpoint, device=device)


def page_of(modules: dict[str, nn.Module], spec: Spec) -> dict[str, Any]:
    """What a checkpoint says of its policy, so that it loads without the algorithm's code."""
    policy = modules["policy"]
    described = {"policy": policy.description} if isinstance(policy, Head) else {}
    return {"spec": spec.to_json(), **described}
