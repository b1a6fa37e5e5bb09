"""How to make the same again: commands, settings, versions, fingerprints and the machine."""

import math
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

from offrl.checkpoint import TrainedRun
from offrl.evaluation.runfolders import page
from offrl.ope.judging import RESULT
from offrl.plain import clean
from offrl.run import Settings

_OFTEN = ("algo", "dataset", "seeds")  # settings with words of their own, or none while acting
_OF_A_LOG = ("steps", "holdout", "eval_env", "select", "allow_nonfinite", "clip_actions")
_EVERY = ("eval_every", "eval_episodes", "log_every", "save_every")


@dataclass(frozen=True)
class Repeat:
    """One run: what to type, what it was made with, and its run.toml."""

    run: str
    commands: tuple[str, ...]
    fingerprint: str
    versions: tuple[tuple[str, str], ...]
    hardware: str
    seconds: float | None
    exact: str
    toml: str


def repeat(run: TrainedRun, result: Mapping[str, Any]) -> Repeat:
    """Return how to repeat a run and what was done with it."""
    made, settings = run.run, run.run.settings
    hardware = result.get("hardware")
    same = f"{settings.precision}, {settings.device}, {settings.threads} thread"
    seconds = result.get("wall_seconds")
    return Repeat(
        run=clean(run.dir),
        commands=tuple(_commands(run, result)),
        fingerprint=clean(made.fingerprint),
        versions=tuple((clean(k), clean(v)) for k, v in made.versions.items()),
        hardware=clean(hardware) if hardware else "not recorded",
        seconds=float(seconds) if isinstance(seconds, int | float) else None,
        exact=f"the same bits with these versions on such a machine, {clean(same)}"
        f"{'' if settings.threads == 1 else 's'}, compile {clean(settings.compile)}",
        toml=_readable(made.to_toml()),
    )


def _readable(text: str) -> str:
    """run.toml without what could turn or hide the text around it; its line ends are kept."""
    return "\n".join(clean(line.replace("\t", "    ")) for line in text.splitlines())


def _commands(run: TrainedRun, result: Mapping[str, Any]) -> Iterator[str]:
    made = run.run
    yield train_command(run)
    told = result.get("evaluation")
    if isinstance(told, Mapping) and told.get("env"):
        words = ["offrl", "eval", str(run.dir), "--env", str(told["env"])]
        words += ["--episodes", str(told.get("n_episodes"))]
        words += ["--seed", str(told.get("episode_seed") or 0)]
        if told.get("checkpoint") not in (None, "last"):
            words += ["--checkpoint", str(told["checkpoint"])]
        yield _typed(words)
    judged = page(run.dir / RESULT)
    if judged.get("dataset"):
        words = ["offrl", "ope", str(run.dir), "--dataset", str(judged["dataset"])]
        yield _typed([*words, "--discount", str(judged.get("discount"))])
    if made.source_sha256:
        yield f"# the file of the algorithm had the SHA-256 {made.source_sha256}"


def train_command(run: TrainedRun) -> str:
    """Return the command that trains a run again, with every setting that is not the default."""
    made, settings = run.run, run.run.settings
    acts = made.online is not None
    seeds = ",".join(str(seed) for seed in settings.seeds)
    if acts and made.parent:
        words = ["offrl", "finetune", str(made.parent), "--env", str(made.env)]
    elif acts:
        words = ["offrl", "train", "--algo", settings.algo, "--env", str(made.env)]
    else:
        words = ["offrl", "train", "--algo", settings.algo, "--dataset", settings.dataset]
    words += ["--env-steps", str(made.env_steps)] if acts else []
    words += ["--seeds", seeds]
    left = {*_OFTEN, *(() if not acts else (*_OF_A_LOG, *_EVERY))}
    values = {f.name: getattr(settings, f.name) for f in fields(Settings) if f.name not in left}
    usual = {f.name: f.default for f in fields(Settings) if f.name not in ("device", "compile")}
    # Of the rest every one is given: a recipe, or the run that came before, may say otherwise.
    given = {name: value for name, value in values.items() if value != usual.get(name)}
    acting = {k: v for k, v in (made.online or {}).items() if v not in ("", -math.inf)}
    given |= {k: v for k, v in acting.items() if k not in ("anneal_to", "anneal_steps")}
    given |= {k: v for k, v in acting.items() if acting.get("anneal")}
    words += _flags({**given, **made.config})
    return _typed([*words, "--out", "AGAIN"])


def _flags(values: Mapping[str, Any]) -> list[str]:
    words: list[str] = []
    for name, value in values.items():
        flag = f"--{name.replace('_', '-')}"
        if name == "clip_actions":
            words += [flag] if value else []
        elif value is not None:
            words.append(f"{flag}={_word(value)}")
    return words


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value) if isinstance(value, float) else str(value)


def _typed(words: list[str]) -> str:
    return clean(" ".join(shlex.quote(word) for word in words))
