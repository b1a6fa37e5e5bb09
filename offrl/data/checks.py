"""What makes a dataset sound: every rule as data, and the report of what breaks it.

A rule has a stable code. An error makes what is learned from the data wrong or impossible, a
warning is what a person should look at, a note is worth knowing and breaks nothing.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from offrl.data.catalogue import resolve
from offrl.data.dataset import Dataset
from offrl.data.episode_checks import Found, Watch
from offrl.data.episode_store import LEARNING_INFOS, EpisodeStore
from offrl.data.episodes import (
    Episode,
    columns_of,
    digest,
    faults,
    fingerprint_of,
    structure_faults,
)
from offrl.data.import_checks import IMPORT_RULES, findings_of_import
from offrl.data.manifest import Manifest, read_published
from offrl.data.minari_store import open_store
from offrl.errors import CorruptDataError

Severity = Literal["error", "warning", "note"]
MAX_PLACES = 5

# code: severity, and what a person would advise.
RULES: dict[str, tuple[Severity, str]] = {
    "unreadable": ("error", "Download or collect the dataset again."),
    "file-damaged": ("error", "Restore the file from a copy, or collect the dataset again."),
    "episode-damaged": ("error", "Restore the file from a copy, or collect the dataset again."),
    "fingerprint-mismatch": (
        "error",
        "The contents changed after they were written; find out why.",
    ),
    "count-mismatch": ("error", "Write the dataset again: its metadata and its files disagree."),
    "missing-episode": ("error", "Download or write the dataset again; an episode is gone."),
    "missing-column": (
        "error",
        "Every episode needs the same columns; add it or drop the episode.",
    ),
    "empty-episode": ("error", "Leave empty episodes out of the log."),
    "length-mismatch": (
        "error",
        "T steps need T actions, rewards and flags and T+1 observations; log the last one too.",
    ),
    "shape-mismatch": ("error", "Give every row the shape that its space declares."),
    "type-mismatch": ("error", "Convert the column to the type that its space declares."),
    "end-inside-episode": ("error", "Start a new episode after each end."),
    "non-finite-observation": ("error", "Repair the sensor log, or train without such episodes."),
    "non-finite-action": ("error", "Repair the log, or train without such episodes."),
    "non-finite-reward": ("error", "Repair the reward, or train without such episodes."),
    "action-out-of-range": (
        "error",
        "Check the number of choices and the number of the first one.",
    ),
    "action-out-of-bounds": (
        "error",
        "Log the action that was executed, after clipping, or correct the action space.",
    ),
    "observation-out-of-space": (
        "warning",
        "Correct the observation space, or the sensor's units.",
    ),
    "choice-out-of-space": ("error", "Correct the number of choices in the observation space."),
    "log-prob-shape": ("error", "Log one number per step, or one more for the reset."),
    "log-prob-infinite": ("error", "Log the log-probability of the executed action only."),
    "log-prob-positive": ("error", "No probability is above 1: take the natural log of it first."),
    "log-prob-shifted": (
        "error",
        "Row t+1 belongs to action t and row 0 to the reset; move the column by one row.",
    ),
    "log-prob-gap": (
        "warning",
        "Log it at every step, or importance weights cannot be used there.",
    ),
    "log-prob-partial": (
        "note",
        "Methods that weigh by the behaviour use the other episodes only.",
    ),
    "last-observation-repeated": (
        "warning",
        "Log the observation that follows the last action instead of repeating the one before.",
    ),
    "last-observation-from-next": (
        "warning",
        "Log the observation before the reset; after an automatic reset it is in the info.",
    ),
    "duplicate-episode": ("warning", "Keep one of each, or held-out episodes repeat trained ones."),
    "duplicate-row": (
        "warning",
        "Look for rows that were logged twice; a deterministic system may repeat some.",
    ),
    "reward-scale": ("warning", "Scale the rewards to about 1."),
    "both-ends": ("note", "Such steps count as terminated; nothing need be done."),
    "open-end": ("note", "Such episodes count as truncated; nothing need be done."),
    "ends-at-one-length": (
        "note",
        "If that is a time limit, mark it truncated instead, so that values look beyond it.",
    ),
    "constant-observation": ("note", "The column says nothing; leave it out if you can."),
    "constant-action": ("note", "Nothing can be learned about an action that never changes."),
    "constant-reward": (
        "note",
        "Every policy looks alike under it; check that rewards were logged.",
    ),
    **IMPORT_RULES,
    "few-episodes": ("note", "Intervals over episodes and held-out episodes need more of them."),
}


@dataclass(frozen=True)
class Problem:
    """One rule that the data breaks, with how often and where first."""

    code: str
    severity: Severity
    message: str
    count: int
    places: tuple[str, ...]
    advice: str


@dataclass(frozen=True)
class Report:
    """What a check found; `ok` where there is no error."""

    dataset: str
    episodes: int
    steps: int
    fingerprint: str | None
    problems: tuple[Problem, ...]

    @property
    def ok(self) -> bool:
        """Whether the data can be learned from as it is."""
        return not any(problem.severity == "error" for problem in self.problems)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values."""
        return {
            "ok": self.ok,
            "dataset": self.dataset,
            "episodes": self.episodes,
            "steps": self.steps,
            "fingerprint": self.fingerprint,
            "problems": [
                {
                    "code": problem.code,
                    "severity": problem.severity,
                    "message": problem.message,
                    "count": problem.count,
                    "places": list(problem.places),
                    "advice": problem.advice,
                }
                for problem in self.problems
            ],
        }


@dataclass
class _Tally:
    """What was found so far: the first message, the count and the first places of each rule."""

    found: dict[tuple[str, str], tuple[str, int, list[str]]] = field(default_factory=dict)
    minor: set[str] = field(default_factory=set)  # codes whose findings are too few to warn of

    def add(self, item: Found) -> None:
        key = (item.code, item.field)
        if item.minor:
            self.minor.add(item.code)
        message, count, places = self.found.get(key, (item.message, 0, []))
        if item.place and len(places) < MAX_PLACES:
            places.append(item.place)
        self.found[key] = (message, count + item.count, places)

    def problems(self) -> tuple[Problem, ...]:
        order = ("error", "warning", "note")
        made = [
            Problem(
                code,
                "note" if code in self.minor else RULES[code][0],
                message,
                count,
                tuple(places),
                RULES[code][1],
            )
            for (code, _), (message, count, places) in self.found.items()
        ]
        return tuple(sorted(made, key=lambda problem: order.index(problem.severity)))


def check(data: Dataset | str | Path) -> Report:
    """Read every value of a dataset and report what is wrong with it.

    Raises NotFoundError for a reference to nothing and UnsafeDataError for data that reaches into
    other files; damaged data is reported, not raised.
    """
    if isinstance(data, Dataset):
        return _check(data.id, data.episodes, data.path, data)
    folder = resolve(data)
    try:
        store = open_store(folder, thorough=True)
        _ = store.structures
    except CorruptDataError as error:
        unreadable = _Tally()
        unreadable.add(Found("unreadable", "", error.cause))
        return Report(str(data), 0, 0, None, unreadable.problems())
    opened = Dataset(store, store.spec, id=store.id, path=folder, metadata=store.metadata)
    return _check(store.id, store, folder, opened)


def _check(name: str, episodes: Sequence[Episode], folder: Path | None, data: Dataset) -> Report:
    tally, watch = _Tally(), Watch(data.spec)
    manifest: Manifest | None = None
    whole = folder is not None and isinstance(episodes, EpisodeStore)
    if folder is not None and whole:
        try:
            manifest = read_published(folder)
        except CorruptDataError as error:
            tally.add(Found("unreadable", "manifest", error.cause))
    if manifest is not None:
        for path in manifest.damaged():
            message = f"{path.name} is not as it was written"
            tally.add(Found("file-damaged", path.name, message, str(path)))
    broken: set[int] = set()
    for number, fault in _structure(episodes, data):
        place = "" if number is None else f"episode {number}"
        tally.add(Found(fault.code, fault.field, fault.message, place))
        if number is not None:
            broken.add(number)
    digests: list[str] = []
    steps = 0
    for number, read in _readable(episodes, broken):
        if isinstance(read, CorruptDataError):
            tally.add(Found("unreadable", "episode", read.cause, f"episode {number}"))
            digests.append("")
            continue
        steps += len(read)
        digests.append(digest(read))
        expected = manifest.episodes[number : number + 1] if manifest else ()
        if expected and expected[0] != digests[-1]:
            message = "the values of an episode are not those that were written"
            tally.add(Found("episode-damaged", "", message, f"episode {number}"))
        for found in _contents(number, read, watch, data):
            tally.add(found)
    fingerprint = fingerprint_of(digests) if not broken and "" not in digests else None
    for found in _fingerprints(fingerprint, data, whole=whole):
        tally.add(found)
    for found in findings_of_import(data.metadata):
        tally.add(found)
    for found in watch.finish():
        tally.add(found)
    if len(episodes) == 1:
        tally.add(Found("few-episodes", "", "there is one episode only"))
    return Report(name, len(episodes), steps, fingerprint, tally.problems())


def _structure(episodes: Sequence[Episode], data: Dataset) -> Iterator[tuple[int | None, Any]]:
    if isinstance(episodes, EpisodeStore):
        yield from episodes.all_structure_faults()
        return
    for number, episode in enumerate(episodes):
        for fault in structure_faults(columns_of(episode), data.spec):
            yield number, fault


def _readable(
    episodes: Sequence[Episode], broken: set[int]
) -> Iterator[tuple[int, Episode | CorruptDataError]]:
    """The episodes of sound structure; one that cannot be read does not hide those after it."""
    numbers = [number for number in range(len(episodes)) if number not in broken]
    if not isinstance(episodes, EpisodeStore):
        yield from ((number, episodes[number]) for number in numbers)
        return
    while numbers:
        reading = episodes.read(numbers, LEARNING_INFOS)
        done = 0
        try:
            for episode in reading:
                yield numbers[done], episode
                done += 1
            return
        except CorruptDataError as error:
            yield numbers[done], error
        numbers = numbers[done + 1 :]


def _contents(number: int, episode: Episode, watch: Watch, data: Dataset) -> Iterator[Found]:
    malformed = False
    for fault in faults(episode, data.spec):
        malformed = True
        place = f"episode {number}" + ("" if fault.step is None else f" step {fault.step}")
        code = "choice-out-of-space" if fault.code == "observation-out-of-space" else fault.code
        yield Found(code, fault.field, fault.message, place)
    try:
        yield from watch.episode(number, episode, flatten=not malformed)
    except CorruptDataError as error:
        yield Found("log-prob-shape", "infos/behavior_log_prob", error.cause, f"episode {number}")


def _fingerprints(fingerprint: str | None, data: Dataset, *, whole: bool) -> Iterator[Found]:
    own = data.metadata.get("offrl")
    recorded = own.get("fingerprint") if isinstance(own, dict) else None
    if whole and fingerprint is not None and recorded not in (None, fingerprint):
        message = f"the fingerprint is {fingerprint}, and {recorded} was recorded"
        yield Found("fingerprint-mismatch", "", message)
