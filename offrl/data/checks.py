"""The check of a dataset: every value read once, and a report of the rules that are broken."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from offrl.data.catalogue import resolve
from offrl.data.damaged import look
from offrl.data.dataset import Dataset
from offrl.data.episode_checks import Watch
from offrl.data.episode_store import LEARNING_INFOS, EpisodeStore
from offrl.data.episodes import (
    Episode,
    columns_of,
    digest,
    faults,
    fingerprint_of,
    structure_faults,
)
from offrl.data.findings import Found
from offrl.data.import_checks import findings_of_import
from offrl.data.manifest import Identity, Manifest, read_published
from offrl.data.minari_store import open_store
from offrl.data.recovery import readable
from offrl.data.rules import RULES, Severity
from offrl.errors import CorruptDataError

MAX_PLACES = 5
CHECKED_INFOS = (*LEARNING_INFOS, "action_mask")


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

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Report":
        """Return the report that `to_dict` made plain values of."""
        problems = tuple(
            Problem(**{**problem, "places": tuple(problem["places"])})
            for problem in values["problems"]
        )
        names = ("dataset", "episodes", "steps", "fingerprint")
        return cls(**{name: values[name] for name in names}, problems=problems)

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
    graver: set[str] = field(default_factory=set)  # codes with a finding that is not minor

    def add(self, item: Found) -> None:
        key = (item.code, item.field)
        if not item.minor:
            self.graver.add(item.code)
        message, count, places = self.found.get(key, (item.message, 0, []))
        if item.place and len(places) < MAX_PLACES:
            places.append(item.place)
        self.found[key] = (message, count + item.count, places)

    def problems(self) -> tuple[Problem, ...]:
        order = ("error", "warning", "note")
        made = [
            Problem(
                code,
                RULES[code][0] if code in self.graver else "note",
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

    Files that are not as they were written are looked into by a process of its own. Raises
    NotFoundError for a reference to nothing and UnsafeDataError for data that reaches into
    other files; damaged data is reported, not raised.
    """
    if isinstance(data, Dataset):
        return _check(data.id, data.episodes, data.path, data)
    folder = resolve(data)
    try:
        manifest = read_published(folder)
    except CorruptDataError:
        manifest = None  # reported below
    vouched: Identity | None = None
    damaged: list[Path] = []
    if manifest is not None:
        vouched = manifest.identity_of(folder / "data" / "main_data.hdf5")
        damaged = list(manifest.damaged())
    if not damaged:
        return check_folder(folder, str(data), vouched)
    found = look(folder, str(data))
    if isinstance(found, dict):
        return Report.from_dict(found)
    broken = _Tally()
    for path in damaged:
        broken.add(_damaged(path))
    broken.add(Found("unreadable", "", f"the damaged files cannot be read: {found}"))
    return Report(str(data), 0, 0, None, broken.problems())


def check_folder(folder: Path, ref: str, vouched: Identity | None = None) -> Report:
    """Check a dataset folder in this process; `vouched` as for `open_store`."""
    lost: dict[int, str] = {}
    try:
        store = open_store(folder, thorough=True, vouched=vouched)
        try:
            _ = store.structures
        except CorruptDataError as error:
            lost = store.rescue(error)
    except CorruptDataError as error:
        unreadable = _Tally()
        unreadable.add(Found("unreadable", "", error.cause))
        return Report(ref, 0, 0, None, unreadable.problems())
    opened = Dataset(store, store.spec, id=store.id, path=folder, metadata=store.metadata)
    return _check(store.id, store, folder, opened, lost)


def _damaged(path: Path) -> Found:
    return Found("file-damaged", path.name, f"{path.name} is not as it was written", str(path))


def _check(
    name: str,
    episodes: Sequence[Episode],
    folder: Path | None,
    data: Dataset,
    lost: Mapping[int, str] | None = None,
) -> Report:
    tally, watch = _Tally(), Watch(data.spec, _limit(data))
    manifest: Manifest | None = None
    store = episodes if isinstance(episodes, EpisodeStore) else None
    if folder is not None and store is not None:
        try:
            manifest = read_published(folder)
        except CorruptDataError as error:
            tally.add(Found("unreadable", "manifest", error.cause))
    if manifest is not None:
        for path in manifest.damaged():
            tally.add(_damaged(path))
        if manifest.metadata is not None and not manifest.metadata.is_whole():
            path = manifest.metadata.path
            message = f"{path.name} is not as it was written"
            tally.add(Found("metadata-changed", "", message, str(path)))
    for number, why in (lost or {}).items():
        tally.add(Found("unreadable", "episode", why, f"episode {number}"))
    broken: set[int] = set(lost or ())
    for number, fault in _structure(episodes, data):
        place = "" if number is None else f"episode {number}"
        tally.add(Found(fault.code, fault.field, fault.message, place))
        if number is not None:
            broken.add(number)
    digests: list[str] = []
    steps = 0
    for _, number, read in readable(episodes, broken, CHECKED_INFOS):
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
    for found in _fingerprints(fingerprint, data, whole=store is not None):
        tally.add(found)
    for found in findings_of_import(data.metadata):
        tally.add(found)
    for found in watch.finish():
        tally.add(found)
    if len(episodes) == 1:
        tally.add(Found("few-episodes", "", "there is one episode only"))
    return Report(name, len(episodes), steps, fingerprint, tally.problems())


def _limit(data: Dataset) -> int | None:
    """The steps after which the environment cuts an episode, where the metadata says so."""
    try:
        limit = (data.env_spec or {}).get("max_episode_steps")
    except CorruptDataError:  # of data in memory; that of a folder was read before
        return None
    return limit if isinstance(limit, int) and limit > 0 else None


def _structure(episodes: Sequence[Episode], data: Dataset) -> Iterator[tuple[int | None, Any]]:
    if isinstance(episodes, EpisodeStore):
        for index, fault in episodes.all_structure_faults():
            yield None if index is None else episodes.number(index), fault
        return
    for number, episode in enumerate(episodes):
        for fault in structure_faults(columns_of(episode), data.spec):
            yield number, fault


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
