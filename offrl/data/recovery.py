"""What can still be read of a damaged dataset: every episode that is as it was written."""

import warnings
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from offrl.data import lineage
from offrl.data.catalogue import resolve
from offrl.data.dataset import Dataset
from offrl.data.episode_store import Chosen, EpisodeStore
from offrl.data.episodes import Episode, digest
from offrl.data.manifest import read_published
from offrl.data.minari_store import open_store
from offrl.errors import CorruptDataError


def readable(
    episodes: Sequence[Episode], broken: Collection[int], infos: Sequence[str] | None
) -> Iterator[tuple[int, int, Episode | CorruptDataError]]:
    """Yield index, number and contents of the episodes that are not known to be broken.

    One that cannot be read is yielded as the error, and does not hide those after it.
    """
    if not isinstance(episodes, EpisodeStore):
        sound = (number for number in range(len(episodes)) if number not in broken)
        yield from ((number, number, episodes[number]) for number in sound)
        return
    left = [i for i in range(len(episodes)) if episodes.number(i) not in broken]
    while left:
        reading = episodes.read(left, infos)
        done = 0
        try:
            for episode in reading:
                yield left[done], episodes.number(left[done]), episode
                done += 1
            return
        except CorruptDataError as error:
            yield left[done], episodes.number(left[done]), error
        left = left[done + 1 :]


def recover(ref: str | Path) -> Dataset:
    """Return the episodes of a dataset that are as they were written, with a warning of the others.

    Without a manifest, which Minari does not write, they are those that can be read and are well
    formed. Raises CorruptDataError where there is none of them, NotFoundError for no dataset.
    """
    folder = resolve(ref)
    store = open_store(folder, thorough=True)
    manifest = read_published(folder)
    lost: set[int] = set()
    try:
        _ = store.structures
    except CorruptDataError as error:
        lost |= set(store.rescue(error))
    for index, _ in store.all_structure_faults():
        if index is not None:
            lost.add(store.number(index))
    kept: list[int] = []
    for index, number, read in readable(store, lost, None):
        expected = manifest.episodes[number : number + 1] if manifest else ()
        changed = isinstance(read, CorruptDataError) or (expected and expected[0] != digest(read))
        if changed:
            lost.add(number)
        else:
            kept.append(index)
    if not kept:
        raise CorruptDataError(
            f"No episode of {folder} is as it was written.", "Restore it from a copy."
        )
    data = Dataset(store, store.spec, id=store.id, path=folder, metadata=store.metadata)
    if not lost:
        return data
    warnings.warn(
        f"{store.id}: {len(lost)} damaged episodes were left out, episode {min(lost)} first.",
        stacklevel=2,
    )
    own = store.metadata.get("offrl")
    source = {
        "dataset": store.id,
        "fingerprint": own.get("fingerprint") if isinstance(own, dict) else None,
        "episodes": store.metadata["total_episodes"],
        "steps": store.metadata["total_steps"],
        "taken": {"episodes": len(kept), "steps": sum(len(store[i]) for i in kept)},
    }
    made = lineage.record("recover", {"damaged": sorted(lost)}, [source])
    return Dataset(
        Chosen(store, kept),
        store.spec,
        id=store.id,
        path=folder,
        metadata=lineage.derived(data, made),
    )
