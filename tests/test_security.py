"""Hostile datasets, runs and names, at every public entry: nothing runs, nothing else is read.

Each attack is made once and shown to the Python functions and to the commands; `ran` is a file that
the attack would make, `secret` a file that it would read.
"""

import ast
import io
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from minari_files import episode, metadata, write_folder

import offrl
from offrl.collect.recorder import record
from offrl.data.catalogue import dataset_path, datasets_root, list_local, resolve
from offrl.data.hub import download
from offrl.data.writer import Writer
from offrl.errors import ConfigError, CorruptDataError, OffrlError, UnsafeDataError
from offrl_cli import main

ROOT = Path(__file__).parent.parent
ID = "me/made-v0"
PRIVATE = "a line that only its owner may read"


@dataclass(frozen=True)
class Scene:
    """A sound dataset to be spoiled, and what would show that an attack worked."""

    folder: Path
    ran: Path
    secret: Path
    typed: Callable[..., tuple[int, str, str]]

    @property
    def file(self) -> Path:
        return self.folder / "data" / "main_data.hdf5"

    def describe(self, **changes: Any) -> None:
        """Change keys of metadata.json; None removes one."""
        path = self.folder / "data" / "metadata.json"
        described = json.loads(path.read_text()) | changes
        path.write_text(json.dumps({k: v for k, v in described.items() if v is not None}))

    def entry_point(self, **changes: Any) -> str:
        """An environment whose making runs a command."""
        command = {"command": f"touch {self.ran}"}
        described = {"id": "Harmless-v0", "entry_point": "os:system", "kwargs": command}
        return json.dumps({**described, **changes})


@pytest.fixture
def scene(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Scene:
    folder = datasets_root() / ID
    episodes = [episode(steps, i, terminated=i == 0) for i, steps in enumerate((4, 3, 5))]
    write_folder(folder, episodes, metadata(episodes))
    secret = tmp_path / "secret"
    secret.write_text(PRIVATE)

    def typed(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        status = main([str(word) for word in words])
        out, err = capsys.readouterr()
        return status, out, err

    return Scene(folder, tmp_path / "ran", secret, typed)


# ------------------------------------------------------------------------------------ entries


def _fit(_: Scene) -> object:
    return offrl.fit("bc", offrl.load(ID), steps=2, compile="off", hidden_size=8, holdout=0.0)


ENTRIES: dict[str, Callable[[Scene], object]] = {
    "load": lambda _: offrl.load(ID),
    "load by path": lambda scene: offrl.load(scene.file),
    "transitions": lambda _: offrl.load(ID).transitions,
    "summary": lambda _: offrl.load(ID).summary(),
    "fit": _fit,
}
COMMANDS: dict[str, tuple[str, ...]] = {
    "data show": ("data", "show", ID),
    "data check": ("data", "check", ID),
    "algos": ("algos", "--dataset", ID),
    "train": ("train", "--algo", "bc", "--dataset", ID, "--steps", "2", "--compile", "off"),
}


# ------------------------------------------------------------------------------------ HDF5


def _external(file: h5py.File, scene: Scene) -> None:
    outside = [(str(scene.secret), 0, 32)]
    file.create_dataset("episode_0/infos/x", shape=(4,), dtype="f8", external=outside)


def _external_link(file: h5py.File, scene: Scene) -> None:
    with h5py.File(scene.secret.with_suffix(".h5"), "w") as other:
        other["x"] = np.arange(5.0)
    file["episode_0/infos/x"] = h5py.ExternalLink(str(scene.secret.with_suffix(".h5")), "/x")


def _virtual(file: h5py.File, scene: Scene) -> None:
    with h5py.File(scene.secret.with_suffix(".h5"), "w") as other:
        other["x"] = np.arange(5.0)
    layout = h5py.VirtualLayout(shape=(5,), dtype="f8")
    layout[:] = h5py.VirtualSource(str(scene.secret.with_suffix(".h5")), "x", shape=(5,))
    file.create_virtual_dataset("episode_0/infos/x", layout)


def _virtual_without_source(file: h5py.File, scene: Scene) -> None:
    del file["episode_0/rewards"]
    layout = h5py.VirtualLayout(shape=(4,), dtype="f8")
    layout[:] = h5py.VirtualSource("nowhere.h5", "x", shape=(4,))
    file.create_virtual_dataset("episode_0/rewards", layout)


def _soft_link(file: h5py.File, scene: Scene) -> None:
    file["episode_0/infos/x"] = h5py.SoftLink("/episode_1/rewards")


def _soft_cycle(file: h5py.File, scene: Scene) -> None:
    file["episode_0/infos/x"] = h5py.SoftLink("/episode_0/infos")


def _hard_cycle(file: h5py.File, scene: Scene) -> None:
    file["episode_0/infos/x"] = file["episode_0"]


def _reference(file: h5py.File, scene: Scene) -> None:
    kind = h5py.special_dtype(ref=h5py.Reference)
    column = file.create_dataset("episode_0/infos/x", shape=(5,), dtype=kind)
    column[0] = file["episode_1"].ref


HDF5 = [
    _external,
    _external_link,
    _virtual,
    _virtual_without_source,
    _soft_link,
    _soft_cycle,
    _hard_cycle,
    _reference,
]


class TestAnHdf5FileThatReachesElsewhere:
    @pytest.mark.parametrize("attack", HDF5, ids=lambda attack: attack.__name__.strip("_"))
    def test_is_refused_before_a_value_is_read(
        self, attack: Callable[[h5py.File, Scene], None], scene: Scene
    ) -> None:
        with h5py.File(scene.file, "r+") as file:
            file.require_group("episode_0/infos")
            attack(file, scene)
        for entry in ENTRIES.values():
            with pytest.raises(UnsafeDataError):
                entry(scene)
        for words in COMMANDS.values():
            status, out, err = scene.typed(*words)
            assert status == 1
            assert PRIVATE not in out + err
        with pytest.raises(UnsafeDataError):
            offrl.check(ID)

    def test_is_refused_as_a_link_to_a_file_outside(self, scene: Scene, tmp_path: Path) -> None:
        shutil.move(scene.file, tmp_path / "elsewhere.hdf5")
        scene.file.symlink_to(tmp_path / "elsewhere.hdf5")
        for entry in ENTRIES.values():
            with pytest.raises(UnsafeDataError):
                entry(scene)
        for words in COMMANDS.values():
            assert scene.typed(*words)[0] == 1


# ------------------------------------------------------------------------------------ environments


class TestAnEntryPointInMetadata:
    def test_does_not_run_where_a_space_is_missing(self, scene: Scene) -> None:
        scene.describe(env_spec=scene.entry_point(), observation_space=None)
        for entry in ENTRIES.values():
            with pytest.raises(UnsafeDataError, match="observation_space"):
                entry(scene)
        for words in COMMANDS.values():
            assert scene.typed(*words)[0] == 1
        assert scene.typed("data", "list")[0] == 0
        assert [entry["problem"] is None for entry in list_local()] == [False]
        assert not scene.ran.exists()

    def test_does_not_run_where_the_spaces_are_there(self, scene: Scene) -> None:
        scene.describe(env_spec=scene.entry_point(), eval_env_spec=scene.entry_point())
        for entry in ENTRIES.values():
            entry(scene)
        for words in (*COMMANDS.values(), ("data", "list")):
            status, out, _ = scene.typed(*words)
            assert status == 0
        _, out, _ = scene.typed("data", "show", ID)
        assert "Harmless-v0" in out
        assert not scene.ran.exists()

    @pytest.mark.parametrize(
        "changes",
        [
            {},
            {"id": "Pendulum-v1"},
            {"id": "intruder:Harmless-v0", "entry_point": None, "kwargs": {}},
            {
                "id": "Pendulum-v1",
                "entry_point": "gymnasium.envs.classic_control.pendulum:PendulumEnv",
                "kwargs": {},
                "additional_wrappers": [
                    {"name": "W", "entry_point": "intruder:Wrapper", "kwargs": {}}
                ],
            },
        ],
        ids=["entry point", "a known id with another entry point", "module", "wrapper"],
    )
    def test_does_not_run_when_its_policy_is_evaluated(
        self, changes: dict[str, Any], scene: Scene
    ) -> None:
        code = f"import pathlib\npathlib.Path({str(scene.ran)!r}).touch()\nWrapper = print\n"
        Path("intruder.py").write_text(code)  # in the working folder, as an attacker would put it
        scene.describe(env_spec=scene.entry_point(**changes))
        for key in ("eval_env_spec", "env_spec"):
            scene.describe(**{key: scene.entry_point(**changes)})
        run = _fit(scene)
        with pytest.raises(OffrlError):
            offrl.evaluate(run, episodes=1)  # pyright: ignore[reportArgumentType]  # a TrainedRun
        trained = scene.typed(*COMMANDS["train"], "--out", "run")
        assert trained[0] == 0
        status, _, err = scene.typed("eval", "run", "--episodes", "1")
        assert status in (1, 2)
        assert err.startswith("error: ")
        assert not scene.ran.exists()
        assert "intruder" not in sys.modules


# ------------------------------------------------------------------------------------ pickles


class _Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, ran: Path) -> None:
        self.ran = ran

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.ran}",)


def _pickled(ran: Path, form: str) -> bytes:
    if form == "torch":
        stream = io.BytesIO()
        torch.save(_Payload(ran), stream)
        return stream.getvalue()
    if form == "zip":
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as file:
            file.writestr("data.pkl", pickle.dumps(_Payload(ran)))
        return stream.getvalue()
    if form == "npz":
        stream = io.BytesIO()
        np.savez(stream, x=np.array([_Payload(ran)], dtype=object))
        return stream.getvalue()
    return pickle.dumps(_Payload(ran))


class TestAPickle:
    @pytest.mark.parametrize("form", ["pickle", "torch", "zip", "npz"])
    def test_in_place_of_any_file_of_a_run_is_not_read(
        self, form: str, scene: Scene, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
        offrl.fit("bc", offrl.load(ID), steps=2, compile="off", hidden_size=8, out="run")
        payload = _pickled(scene.ran, form)
        files = [p for p in Path("run").rglob("*") if p.is_file() and "events" not in p.name]
        assert any(path.suffix == ".safetensors" for path in files)
        for path in files:
            kept = path.read_bytes()
            path.write_bytes(payload)
            for use in (offrl.load_run, offrl.load_policy):
                with suppress(OffrlError), warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # an older checkpoint may be used instead
                    use("run")
            assert scene.typed("eval", "run", "--env", "Pendulum-v1", "--episodes", "1")[0] != 0
            assert not scene.ran.exists(), path
            path.write_bytes(kept)

    @pytest.mark.parametrize("form", ["pickle", "torch", "zip", "npz"])
    @pytest.mark.parametrize("name", ["main_data.hdf5", "metadata.json"])
    def test_in_place_of_a_file_of_a_dataset_is_not_read(
        self, form: str, name: str, scene: Scene
    ) -> None:
        (scene.folder / "data" / name).write_bytes(_pickled(scene.ran, form))
        for entry in ENTRIES.values():
            with pytest.raises(CorruptDataError, match=re.escape(name)):
                entry(scene)
        for words in COMMANDS.values():
            assert scene.typed(*words)[0] == 1
        assert not scene.ran.exists()

    def test_by_its_path_is_no_dataset(self, scene: Scene, tmp_path: Path) -> None:
        for form, suffix in (("pickle", "pkl"), ("npz", "npz"), ("torch", "pt"), ("zip", "zip")):
            path = tmp_path / f"set.{suffix}"
            path.write_bytes(_pickled(scene.ran, form))
            with pytest.raises(OffrlError, match="not a dataset"):
                offrl.load(path)
            assert scene.typed("data", "show", path)[0] == 2
        assert not scene.ran.exists()

    def test_in_an_hdf5_column_stays_bytes(self, scene: Scene) -> None:
        with h5py.File(scene.file, "r+") as file:
            payload = np.frombuffer(_pickled(scene.ran, "pickle"), np.uint8)
            file["episode_0/infos/note"] = np.tile(payload, (5, 1))
        assert all(one.infos for one in offrl.load(ID))
        assert scene.typed("data", "check", ID)[0] in (0, 1)
        assert not scene.ran.exists()


# ------------------------------------------------------------------------------------ names

NAMES = [
    "",
    ".",
    "..",
    "../x-v0",
    "/abs-v0",
    "/tmp/abs-v0",  # noqa: S108  # a name that must be refused, not a file
    "a/../../x-v0",
    "me/../x-v0",
    "me//x-v0",
    "me/./x-v0",
    "me\\x-v0",
    "me/x-v0/",
    "me/x\ny-v0",
    "me/x\0y-v0",
    "me/x-v0\n",
    "me/x-v0.",
    "me/x-v0 ",
    "me/x",
    "con/x-v0",
    "me/con",
    "me/nul/x-v0",
    "x" * 300 + "-v0",
    "/".join(["ab"] * 120) + "/x-v0",
    "m\u0435/made-v0",  # a Cyrillic letter that looks like e
    "me/made\u2010v0",
    "me/x-v\u0661",  # a digit that is not ASCII
    "~/x-v0",
    "$HOME/x-v0",
    "me/data/x-v0",
]


class TestANameThatCouldLeaveTheRoot:
    @pytest.mark.parametrize("name", NAMES)
    def test_is_refused_and_makes_nothing(self, name: str, scene: Scene, tmp_path: Path) -> None:
        before = _everything(tmp_path)
        spec = offrl.load(ID).spec
        uses: list[Callable[[], object]] = [
            lambda: dataset_path(name),
            lambda: download(name),
            lambda: resolve(f"minari:{name}"),
            lambda: offrl.load(f"minari:{name}"),
            lambda: Writer(name, spec.observation_space, spec.action_space),
            lambda: offrl.load(ID).save(name),
            lambda: record(env="Pendulum-v1", policies=["random"], episodes=1, out=name),
        ]
        for use in uses:
            with pytest.raises(ConfigError):
                use()
        commands = [
            ("data", "download", name),
            ("data", "show", f"minari:{name}"),
            ("data", "check", f"minari:{name}"),
            ("train", "--algo", "bc", "--dataset", f"minari:{name}"),
            (
                "collect",
                "--env",
                "Pendulum-v1",
                "--policy",
                "random",
                "--episodes",
                1,
                "--out",
                name,
            ),
        ]
        for words in commands:
            status, out, err = scene.typed(*words)
            assert (status, out) == (2, ""), words
            assert "\0" not in err
        assert _everything(tmp_path) == before


class TestALink:
    @pytest.mark.parametrize("linked", ["me", ID])
    def test_is_not_followed_by_what_replaces(
        self, linked: str, scene: Scene, tmp_path: Path
    ) -> None:
        data = offrl.load(ID)[:2]
        outside = tmp_path / "outside"
        shutil.move(datasets_root() / linked, outside)
        (datasets_root() / linked).symlink_to(outside)
        before = _everything(outside)
        with pytest.raises(UnsafeDataError, match="is a link"):
            data.save(ID, overwrite=True)
        with pytest.raises(UnsafeDataError, match="is a link"):
            download(ID, overwrite=True)
        words = ("collect", "--env", "Pendulum-v1", "--policy", "random", "--episodes", 1)
        status, _, err = scene.typed(*words, "--out", ID, "--overwrite")
        assert status == 1
        assert "is a link" in err
        assert scene.typed("data", "download", ID, "--overwrite")[0] == 1
        assert _everything(outside) == before
        assert len(offrl.load(ID)) == 3


def _everything(folder: Path) -> set[str]:
    return {str(path) for path in folder.rglob("*")}


# ------------------------------------------------------------------------------------ text


class TestText:
    def test_of_a_dataset_cannot_steer_a_terminal(self, scene: Scene) -> None:
        scene.describe(
            description="\x1b]0;owned\x07[link=file:///etc]red[/link]\r\x1b[2Jgone",
            author=["\x1b[31mSomeone"],
            env_spec=scene.entry_point(id="\x1b[1mBold-v0"),
        )
        for words in (*COMMANDS.values(), ("data", "list")):
            _, out, err = scene.typed(*words)
            assert not set("\x1b\x07\r") & set(out + err), words

    def test_nested_a_thousand_deep_is_refused(self, scene: Scene) -> None:
        deep = "[" * 100_000 + "]" * 100_000
        path = scene.folder / "data" / "metadata.json"
        path.write_text(path.read_text()[:-1] + f', "x": {deep}}}')
        for entry in ENTRIES.values():
            with pytest.raises(CorruptDataError):
                entry(scene)
        for words in COMMANDS.values():
            assert scene.typed(*words)[0] == 1

    def test_of_a_hundred_megabytes_is_refused_unread(self, scene: Scene) -> None:
        path = scene.folder / "data" / "metadata.json"
        with path.open("ab") as file:
            file.truncate(100 * 2**20)
        with pytest.raises(CorruptDataError):
            offrl.load(ID)
        assert scene.typed("data", "show", ID)[0] == 1

    def test_with_a_token_is_never_printed_or_kept(
        self, scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        token = "hf_AbCdEfGhIjKlMnOpQrStUvWxYz"  # noqa: S105  # nobody's
        monkeypatch.setenv("HF_TOKEN", token)
        monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
        said = [scene.typed("data", "download", "mujoco/hopper/medium-v0")]
        said.append(scene.typed(*COMMANDS["train"], "--out", "run"))
        said.append(scene.typed("--debug", "eval", "run", "--env", "Pendulum-v1"))
        assert token not in str(said)
        kept = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert not [path for path in kept if token.encode() in path.read_bytes()]


# ------------------------------------------------------------------------------------ source

MODULES = {
    *("pickle", "cPickle", "cloudpickle", "dill", "joblib"),
    *("jsonpickle", "marshal", "shelve", "yaml"),
}
CALLS = {"eval", "exec", "compile", "os.system", "os.popen"}
FLAGS = {("allow_pickle", True), ("weights_only", False), ("shell", True)}


def unsafe(source: str) -> list[str]:
    """What a source has that can run data, as `line: what`."""
    found = []
    for node in ast.walk(ast.parse(source)):
        names: set[str] = set()
        if isinstance(node, ast.Import):
            names = {alias.name.partition(".")[0] for alias in node.names} & MODULES
        elif isinstance(node, ast.ImportFrom):
            names = {(node.module or "").partition(".")[0]} & MODULES
        elif isinstance(node, ast.Call):
            names = {ast.unparse(node.func)} & CALLS
        elif isinstance(node, ast.keyword) and isinstance(node.value, ast.Constant):
            flag = (node.arg or "", node.value.value)
            names = {f"{flag[0]}={flag[1]}"} if flag in FLAGS else set()
        if names:
            line = getattr(node, "lineno", 0)
            found += [f"{line}: {name}" for name in sorted(names)]
    return found


class TestTheSource:
    def test_holds_nothing_that_runs_data(self) -> None:
        sources = [*ROOT.glob("offrl/**/*.py"), *ROOT.glob("cli/**/*.py")]
        assert len(sources) > 30
        found = {str(path.relative_to(ROOT)): unsafe(path.read_text()) for path in sources}
        assert {path: lines for path, lines in found.items() if lines} == {}

    @pytest.mark.parametrize(
        "line",
        [
            "import pickle",
            "from yaml import load",
            "x = eval(text)",
            "exec(code)",
            "np.load(p, allow_pickle=True)",
            "torch.load(p, weights_only=False)",
            "subprocess.run(words, shell=True)",
            "os.system(words)",
        ],
    )
    def test_would_be_caught_with(self, line: str) -> None:
        assert unsafe(line)
        assert not unsafe("policy.eval(); offrl.evaluate(run); torch.compile(f); re.compile(p)")

    def test_no_module_beside_the_data_is_imported(self, scene: Scene) -> None:
        code = f"import pathlib\npathlib.Path({str(scene.ran)!r}).touch()\n"
        for name in ("minari", "h5py", "huggingface_hub", "pyarrow"):
            (scene.folder / "data" / f"{name}.py").write_text(code)
            (scene.folder / f"{name}.py").write_text(code)
        done = subprocess.run(
            [sys.executable, "-P", "-m", "offrl_cli", "data", "show", ID],
            cwd=scene.folder / "data",
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0
        assert not scene.ran.exists()
