"""Downloads, from a hub on the loopback: what works, every way it fails, and what is left after."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import hub_server
import hub_sets
import minari
import numpy as np
import pytest
from hub_server import Fault, Hub, Kind
from minari.namespace import list_local_namespaces

import offrl
from offrl.data.catalogue import datasets_root, list_local, resolve
from offrl.data.dataset import load
from offrl.data.hub import STAGING, download, list_remote
from offrl.errors import (
    ConfigError,
    CorruptDataError,
    LockedError,
    NotFoundError,
    OffrlError,
    UnsafeDataError,
)

HOPPER = "mujoco/hopper/medium-v0"
MAZE = "D4RL/pointmaze/umaze-v2"
DATA, META = "main_data.hdf5", "metadata.json"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with Hub() as served:
        served.add(hub_sets.hopper(tmp_path / "hopper"), HOPPER)
        served.add(hub_sets.pointmaze(tmp_path / "maze"), MAZE)
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        yield served


def nothing_is_here() -> bool:
    """No dataset is under the root, for offrl or for Minari."""
    root = datasets_root()
    return not list_local() and not minari.list_local_datasets() and not (root / "mujoco").exists()


def assert_equal_to(path: Path, id: str) -> None:
    ours, theirs = load(id), load(path)
    assert ours.fingerprint == theirs.fingerprint
    assert len(ours) == len(theirs) > 0


def data_asked_for(hub: Hub) -> list[str]:
    """The ranges in which the HDF5 file was sent, "" for from its beginning."""
    wanted = ("storage/", "resolve/") if not hub_server.is_large(DATA) else ("storage/",)
    return [
        asked
        for method, path, asked in hub.requests
        if method == "GET" and any(w in path for w in wanted) and not path.endswith(".json")
    ]


class TestListing:
    def test_the_hub_shows_each_dataset_with_its_figures(self, hub: Hub) -> None:
        rows = list_remote()
        assert [row["dataset"] for row in rows] == [MAZE, HOPPER]
        assert rows[1]["episodes"] == 4
        assert rows[1]["steps"] == 156
        assert rows[1]["env"] == "Hopper-v5"
        assert rows[1]["local"] is False

    def test_a_prefix_leaves_out_the_others(self, hub: Hub, tmp_path: Path) -> None:
        hub.add(hub_sets.hopper(tmp_path / "other"), "mujoco/walker/medium-v0")
        assert [row["dataset"] for row in list_remote("mujoco/hop")] == [HOPPER]

    def test_a_dataset_that_cannot_be_shown_is_left_out_with_a_warning(self, hub: Hub) -> None:
        hub.repositories["mujoco"].files["hopper/medium-v0/data/metadata.json"] = b"{"
        with pytest.warns(UserWarning, match="'mujoco/hopper/medium-v0' is left out"):
            assert [row["dataset"] for row in list_remote()] == [MAZE]

    def test_names_that_would_leave_the_root_are_not_shown(self, hub: Hub) -> None:
        repository = hub.repositories["mujoco"]
        for bad in ("mujoco/../../evil-v0", "mujoco/\x1b[31mred-v0"):
            repository.files[f"{bad.partition('/')[2]}/data/metadata.json"] = b"{}"
        top = {"datasets": ["mujoco/../../evil-v0", "mujoco/\x1b[31mred-v0", HOPPER]}
        repository.files["namespace_metadata.json"] = json.dumps(top).encode()
        with pytest.warns(UserWarning, match="left out"):
            assert [row["dataset"] for row in list_remote("mujoco")] == [HOPPER]

    def test_nobody_there_is_said_in_seconds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
        begun = time.monotonic()
        with pytest.raises(OffrlError, match=r"127\.0\.0\.1:9\) cannot be reached") as caught:
            list_remote()
        assert time.monotonic() - begun < 25  # the client alone would try for half a minute
        assert caught.value.exit_code == 1
        assert "HF_ENDPOINT" in caught.value.remedy


class TestDownloading:
    def test_a_benchmark_set_arrives_whole_and_minari_opens_it(
        self, hub: Hub, tmp_path: Path
    ) -> None:
        seen: list[tuple[int, int | None]] = []
        data = download(HOPPER, progress=lambda done, total: seen.append((done, total)))
        assert (data.id, len(data), data.env_id) == (HOPPER, 4, "Hopper-v5")
        assert data.spec.obs_dim == 11
        assert data.path == datasets_root() / HOPPER
        assert_equal_to(tmp_path / "hopper", HOPPER)
        theirs = minari.load_dataset(HOPPER)
        assert theirs.total_steps == 156
        assert list(minari.list_local_datasets()) == [HOPPER]
        assert list_local_namespaces() == ["mujoco", "mujoco/hopper"]
        assert not (datasets_root() / STAGING).exists()
        done, total = seen[-1]
        assert done == total == sum(f.stat().st_size for f in (tmp_path / "hopper/data").iterdir())

    def test_dict_observations_arrive_in_the_order_of_the_space(self, hub: Hub) -> None:
        data = download(f"minari:{MAZE}")
        paths = [part.path for part in data.spec.obs_parts]
        assert paths == ["achieved_goal", "desired_goal", "observation"]
        assert data.spec.obs_dim == 8
        assert data.transitions.obs.shape == (95, 8)

    @pytest.mark.parametrize(("id", "actions"), [(HOPPER, 3), (MAZE, 2)])
    def test_what_arrived_trains_without_its_environment(
        self, id: str, actions: int, hub: Hub
    ) -> None:
        files = hub.repositories[id.partition("/")[0]].files
        path = f"{id.partition('/')[2]}/data/{META}"
        described = json.loads(files[path])
        described["env_spec"] = json.dumps({"id": "Nowhere-v7", "entry_point": "nowhere:Env"})
        files[path] = json.dumps(described).encode()
        download(id)
        run = offrl.fit("bc", f"minari:{id}", steps=2, compile="off", hidden_size=8)
        observation = load(id)[0].observations
        assert run.policy().predict(observation).shape == (len(load(id)[0]) + 1, actions)

    def test_a_mirror_that_gives_no_digests_is_read_to_the_end(
        self, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(hub_server, "is_large", lambda path: False)
        monkeypatch.setattr(hub_server, "git_name", lambda content: "0" * 40)
        download(HOPPER)
        assert_equal_to(tmp_path / "hopper", HOPPER)

    def test_a_set_without_a_namespace_arrives(self, hub: Hub, tmp_path: Path) -> None:
        hub.add(hub_sets.hopper(tmp_path / "bare", id="plain-v3"), "plain-v3")
        download("plain-v3")
        assert sorted(p.name for p in (datasets_root() / "plain-v3").iterdir()) == ["data"]
        assert "plain-v3" in {row["dataset"] for row in list_remote()}

    def test_a_set_whose_namespace_says_nothing_arrives(self, hub: Hub) -> None:
        files = hub.repositories["mujoco"].files
        for path in [path for path in files if path.endswith("namespace_metadata.json")]:
            del files[path]
        assert len(download(HOPPER)) == 4
        assert [entry["id"] for entry in list_local()] == [HOPPER]

    def test_what_is_here_is_not_fetched_again(self, hub: Hub) -> None:
        download(HOPPER)
        hub.requests.clear()
        with pytest.warns(UserWarning, match="already here"):
            assert len(download(HOPPER)) == 4
        assert not hub.requests

    def test_overwrite_replaces_only_by_a_whole_one(self, hub: Hub, tmp_path: Path) -> None:
        download(HOPPER)
        before = load(HOPPER).fingerprint
        new = hub_sets.hopper(tmp_path / "new", seed=1)
        hub.add(new, HOPPER)
        hub.faults = {DATA: [Fault("damage", times=1)]}
        with pytest.raises(CorruptDataError, match="damaged"):
            download(HOPPER, overwrite=True)
        assert load(HOPPER).fingerprint == before
        download(HOPPER, overwrite=True)
        assert_equal_to(new, HOPPER)
        assert not (datasets_root() / STAGING).exists()

    def test_another_root_can_be_named(self, hub: Hub, tmp_path: Path) -> None:
        assert download(HOPPER, root=tmp_path / "other").path == tmp_path / "other" / HOPPER
        assert nothing_is_here()


class TestNames:
    @pytest.mark.parametrize("id", ["mujoco/hopper/medum-v0", "mojoco/hopper/medium-v0"])
    def test_an_unknown_name_is_answered_with_the_nearest(self, hub: Hub, id: str) -> None:
        with pytest.raises(NotFoundError, match=f"no dataset '{id}' on hf://farama") as caught:
            download(id)
        assert caught.value.exit_code == 2
        assert f"Did you mean '{HOPPER}'?" in caught.value.remedy
        assert not datasets_root().exists() or not any(datasets_root().iterdir())

    def test_a_remote_that_needs_a_package_names_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MINARI_REMOTE", "gcp://bucket")
        with pytest.raises(ConfigError, match="not installed") as caught:
            download(HOPPER)
        assert 'pip install "minari[gcs]"' in caught.value.remedy
        assert nothing_is_here()

    @pytest.mark.parametrize("remote", ["ftp://x", "hf://", "farama-minari"])
    def test_a_remote_that_is_none_is_refused(
        self, remote: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MINARI_REMOTE", remote)
        with pytest.raises(ConfigError, match="MINARI_REMOTE"):
            download(HOPPER)

    def test_a_remote_by_another_owner_is_asked(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MINARI_REMOTE", "hf://somebody")
        with Hub(owner="somebody") as hub:
            hub.add(hub_sets.hopper(tmp_path / "hopper"), HOPPER)
            monkeypatch.setenv("HF_ENDPOINT", hub.url)
            assert len(download(HOPPER)) == 4

    def test_a_missing_dataset_names_the_command_that_fetches_it(self) -> None:
        with pytest.raises(NotFoundError) as caught:
            resolve(f"minari:{HOPPER}")
        assert f"offrl data download {HOPPER}" in caught.value.remedy


# What goes wrong, where, and what the error says.
FAILURES: list[tuple[str, Kind, type[OffrlError], str]] = [
    (DATA, "cut", OffrlError, "cut off|stopped after"),
    (DATA, "damage", CorruptDataError, "another digest"),
    (DATA, "longer", CorruptDataError, "more than the .* bytes announced"),
    (DATA, "500", OffrlError, "answered 500"),
    (DATA, "hang", OffrlError, "nothing came for 2 s"),
    ("api", "500", OffrlError, "answered 500"),
]
RARER: list[tuple[str, Kind, type[OffrlError], str]] = [
    (DATA, "404", CorruptDataError, "lists a file that it does not have"),
    (META, "damage", CorruptDataError, "not what the hub announced"),
    ("api", "hang", OffrlError, "nothing came for 2 s"),
    (DATA, "no ranges", OffrlError, "cut off|stopped after"),
    (DATA, "trickle", OffrlError, "nothing came for 2 s"),
    (META, "longer", CorruptDataError, "another size"),
    (META, "404", CorruptDataError, "lists a file that it does not have"),
    (META, "500", OffrlError, "answered 500"),
]


class TestFailing:
    @pytest.mark.parametrize(
        ("where", "kind", "error", "said"),
        [*FAILURES, *(pytest.param(*row, marks=pytest.mark.slow) for row in RARER)],
    )
    def test_a_failure_is_one_error_and_the_next_call_succeeds(
        self,
        where: str,
        kind: Kind,
        error: type[OffrlError],
        said: str,
        hub: Hub,
        tmp_path: Path,
    ) -> None:
        hub.faults = {where: [Fault(kind)]}
        with pytest.raises(error, match=said) as caught:
            download(HOPPER, timeout=2 if kind in ("hang", "trickle") else 30)
        assert caught.value.exit_code == 1
        assert caught.value.remedy
        assert "\n" not in str(caught.value)
        assert nothing_is_here()
        hub.faults = {}
        download(HOPPER)
        assert_equal_to(tmp_path / "hopper", HOPPER)
        assert not (datasets_root() / STAGING).exists()

    @pytest.mark.parametrize(
        "large", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["storage", "plain"]
    )
    def test_a_cut_off_file_goes_on_from_its_last_byte(
        self, large: bool, hub: Hub, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(hub_server, "is_large", lambda path: large and path.endswith(DATA))
        size = len(hub.repositories["mujoco"].files[f"hopper/medium-v0/data/{DATA}"])
        hub.faults = {DATA: [Fault("cut", times=1), Fault("500")]}
        with pytest.raises(OffrlError, match="answered 500"):
            download(HOPPER)
        hub.faults, _ = {}, hub.requests.clear()
        download(HOPPER)
        assert data_asked_for(hub) == [f"bytes={size // 2}-"]

    def test_a_file_that_came_whole_is_not_fetched_again(self, hub: Hub) -> None:
        hub.faults = {META: [Fault("500")]}
        with pytest.raises(OffrlError, match="answered 500"):
            download(HOPPER)
        hub.faults, _ = {}, hub.requests.clear()
        download(HOPPER)
        assert data_asked_for(hub) == []

    def test_a_killed_download_leaves_no_process_and_goes_on(
        self, hub: Hub, tmp_path: Path
    ) -> None:
        hub.faults = {DATA: [Fault("trickle")]}
        code = f"from offrl.data.hub import download; download({HOPPER!r})"
        process = subprocess.Popen([sys.executable, "-c", code])
        parts = datasets_root() / STAGING / HOPPER.replace("/", "@") / "parts"
        deadline = time.monotonic() + 100
        while not any(p.stat().st_size > 300 for p in parts.glob("*")):
            assert process.poll() is None
            assert time.monotonic() < deadline, "nothing came"
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        held = sum(p.stat().st_size for p in parts.glob("*"))
        time.sleep(0.3)
        assert sum(p.stat().st_size for p in parts.glob("*")) <= held + 200
        assert nothing_is_here()
        hub.faults, _ = {}, hub.requests.clear()
        download(HOPPER)
        assert any(asked for _, _, asked in hub.requests)
        assert_equal_to(tmp_path / "hopper", HOPPER)

    def test_two_downloads_of_one_id_do_not_mix(self, hub: Hub) -> None:
        hub.faults = {DATA: [Fault("trickle")]}
        code = f"from offrl.data.hub import download; download({HOPPER!r})"
        process = subprocess.Popen([sys.executable, "-c", code])
        try:
            lock = datasets_root() / STAGING / HOPPER.replace("/", "@") / "root"
            deadline = time.monotonic() + 100
            while not lock.exists():
                assert process.poll() is None
                assert time.monotonic() < deadline, "it never began"
                time.sleep(0.05)
            with pytest.raises(LockedError, match="Another process is downloading"):
                download(HOPPER)
        finally:
            process.kill()
            process.wait()

    def test_no_room_is_said_with_both_numbers(
        self, hub: Hub, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = f"hopper/medium-v0/data/{DATA}"
        monkeypatch.setattr(
            hub_server, "announced", lambda name, size: 10**18 if name == path else size
        )
        with pytest.raises(OffrlError, match=r"bytes are to come, .* are free") as caught:
            download(HOPPER)
        assert "MINARI_DATASETS_PATH" in caught.value.remedy
        assert nothing_is_here()

    def test_a_root_that_cannot_be_written_is_named(self, hub: Hub, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("not a folder")
        with pytest.raises(OffrlError, match="could not be written"):
            download(HOPPER, root=tmp_path / "file" / "root")


class TestTheCommands:
    @pytest.mark.filterwarnings("default")  # what is here already is said in a warning
    def test_list_and_download_answer_in_json(
        self, hub: Hub, typed: Callable[..., tuple[int, str, str]]
    ) -> None:
        status, out, _ = typed("data", "list", "remote", "--prefix", "mujoco", "--json")
        assert status == 0
        assert [row["dataset"] for row in json.loads(out)["datasets"]] == [HOPPER]
        status, out, err = typed("data", "download", HOPPER, "--json")
        assert status == 0
        assert json.loads(out)["episodes"] == 4
        status, out, err = typed("data", "download", HOPPER)
        assert status == 0
        assert "already here" in err
        assert "next: offrl data check" in out

    def test_failures_are_two_lines_and_a_status(
        self, hub: Hub, typed: Callable[..., tuple[int, str, str]]
    ) -> None:
        status, out, err = typed("data", "download", "mujoco/hopper/medum-v0")
        assert (status, out) == (2, "")
        assert HOPPER in err.splitlines()[1]
        hub.faults = {DATA: [Fault("damage")]}
        status, out, err = typed("data", "download", HOPPER)
        assert (status, out) == (1, "")
        assert "damaged" in err
        hub.faults = {"api": [Fault("500")]}
        status, out, err = typed("data", "list", "remote")
        assert (status, out) == (1, "")
        assert len(err.splitlines()) == 2


class TestRemains:
    """What a broken download by other means left under the id."""

    def test_a_folder_without_metadata_is_replaced(self, hub: Hub, tmp_path: Path) -> None:
        data = datasets_root() / HOPPER / "data"
        data.mkdir(parents=True)
        (data / DATA).write_bytes(b"\x89HDF half of it")
        download(HOPPER)
        assert_equal_to(tmp_path / "hopper", HOPPER)

    def test_a_truncated_file_is_replaced(self, hub: Hub, tmp_path: Path) -> None:
        download(HOPPER)
        path = datasets_root() / HOPPER / "data" / DATA
        os.truncate(path, path.stat().st_size // 2)
        download(HOPPER)
        assert_equal_to(tmp_path / "hopper", HOPPER)

    def test_another_dataset_inside_is_not_removed(self, hub: Hub, tmp_path: Path) -> None:
        inner = hub_sets.hopper(datasets_root() / HOPPER / "mine-v0", id=f"{HOPPER}/mine-v0")
        with pytest.raises(ConfigError, match="holds more than the dataset"):
            download(HOPPER, overwrite=True)
        assert len(load(inner)) == 4


class TestHostileHubs:
    def test_a_file_name_cannot_leave_the_folder(self, hub: Hub, tmp_path: Path) -> None:
        files = hub.repositories["mujoco"].files
        files["hopper/medium-v0/../../../../../../evil.hdf5"] = b"x" * 100
        with pytest.raises(UnsafeDataError, match="would leave its folder"):
            download(HOPPER)
        assert not list(tmp_path.rglob("evil*"))
        assert nothing_is_here()

    def test_a_file_that_reads_others_is_refused(self, hub: Hub, tmp_path: Path) -> None:
        secret = tmp_path / "secret"
        secret.write_bytes(np.arange(40.0).tobytes())
        source = tmp_path / "hopper"
        with h5py.File(source / "data" / DATA, "a") as file:
            del file["episode_0/rewards"]
            outside = [(str(secret), 0, 320)]
            file.create_dataset("episode_0/rewards", shape=(40,), dtype="f8", external=outside)
        hub.add(source, HOPPER)
        with pytest.raises(UnsafeDataError, match="no dataset to use"):
            download(HOPPER)
        assert nothing_is_here()
        assert not (datasets_root() / STAGING).exists()

    def test_an_entry_point_is_never_run(self, hub: Hub, tmp_path: Path) -> None:
        path = tmp_path / "hopper" / "data" / META
        metadata = json.loads(path.read_text())
        marker = tmp_path / "ran"
        attack = {
            "id": "x-v0",
            "entry_point": "os:system",
            "kwargs": {"command": f"touch {marker}"},
        }
        metadata["env_spec"] = json.dumps(attack)
        hub.add(_with(path, metadata), HOPPER)
        download(HOPPER)
        del metadata["observation_space"]
        hub.add(_with(path, metadata), HOPPER)
        with pytest.raises(UnsafeDataError):
            download(HOPPER, overwrite=True)
        assert not marker.exists()
        assert load(HOPPER).env_id == "x-v0"

    def test_a_set_under_another_name_is_refused(self, hub: Hub, tmp_path: Path) -> None:
        hub.add(tmp_path / "hopper", "mujoco/walker/medium-v0")
        with pytest.raises(CorruptDataError, match="calls itself 'mujoco/hopper/medium-v0'"):
            download("mujoco/walker/medium-v0")

    def test_counts_that_lie_are_refused(self, hub: Hub, tmp_path: Path) -> None:
        path = tmp_path / "hopper" / "data" / META
        metadata = json.loads(path.read_text()) | {"total_episodes": 10**7}
        hub.add(_with(path, metadata), HOPPER)
        with pytest.raises(CorruptDataError, match="no dataset to use"):
            download(HOPPER)
        assert nothing_is_here()

    @pytest.mark.parametrize("linked", ["mujoco", HOPPER, STAGING])
    def test_nothing_is_written_through_a_link(self, linked: str, hub: Hub, tmp_path: Path) -> None:
        outside = tmp_path / "outside"
        outside.mkdir()
        link = datasets_root() / linked
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(outside)
        with pytest.raises(UnsafeDataError, match="is a link"):
            download(HOPPER, overwrite=True)
        assert not any(outside.iterdir())


def _with(path: Path, metadata: dict[str, object]) -> Path:
    path.write_text(json.dumps(metadata))
    return path.parent.parent
