"""Films of episodes: what they show, that no number depends on them, and what is refused."""

import os
import subprocess
import sys
from ctypes.util import find_library
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

import offrl
from offrl.data.spec import Spec
from offrl.errors import ConfigError, EnvError, OffrlError, WorkError
from offrl.evaluation.evaluate import evaluate
from offrl.evaluation.video import draw_without_display
from offrl_cli import main

FIRST = ("episode_0.mp4", "episode_1.mp4", "episode_2.mp4")
KEYS = ("MUJOCO_GL", "SDL_VIDEODRIVER", "DISPLAY", "WAYLAND_DISPLAY")


@pytest.fixture(autouse=True)
def _nothing_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a display nor a way to draw, and whatever is chosen is forgotten afterwards."""
    for key in KEYS:
        monkeypatch.setenv(key, "")  # so that it comes back, whatever it was
        monkeypatch.delenv(key)


class Lamp(gymnasium.Env[np.ndarray, np.ndarray]):
    """Grows brighter by 20 with every step, for 5 to 8 steps; sides of odd length."""

    observation_space = spaces.Box(-1.0, 1.0, (3,), np.float32)
    action_space = spaces.Box(-2.0, 2.0, (1,), np.float32)

    def __init__(self, render_mode: str | None = "rgb_array") -> None:
        self.render_mode = render_mode

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.steps, self.length = 0, int(self.np_random.integers(5, 9))
        return self.seen(), {}

    def seen(self) -> np.ndarray:
        return self.np_random.uniform(-1, 1, 3).astype(np.float32)

    def step(self, action: np.ndarray) -> Any:
        self.steps += 1
        reward = float(action[0]) + float(self.np_random.uniform())
        return self.seen(), reward, self.steps == self.length, False, {}

    def render(self) -> Any:
        return np.full((33, 47, 3), 20 * self.steps, np.uint8)


class Dark(Lamp):
    """Draws nothing, and may not be played."""

    def reset(self, **given: Any) -> Any:
        raise AssertionError("an episode began")


Lamp.metadata = {"render_modes": ["rgb_array"], "render_fps": 10}
Dark.metadata = {"render_modes": ["ansi"]}


class Follows:
    """Acts by what it sees."""

    spec = Spec(Lamp.observation_space, Lamp.action_space)

    def act(self, flat_obs: np.ndarray) -> np.ndarray:
        return 2 * flat_obs[:, :1]


def frames(path: Path, height: int, width: int) -> np.ndarray:
    """The frames of a film, [n, height, width, 3]."""
    from imageio_ffmpeg import get_ffmpeg_exe

    words = [get_ffmpeg_exe(), "-v", "info", "-i", str(path), "-f", "rawvideo"]
    done = subprocess.run([*words, "-pix_fmt", "rgb24", "-"], capture_output=True, check=True)
    assert f"{width}x{height}".encode() in done.stderr
    assert b"yuv420p" in done.stderr
    return np.frombuffer(done.stdout, np.uint8).reshape(-1, height, width, 3)


def brightness(path: Path) -> list[float]:
    """The mean grey of each frame of the lamp; its sides were padded to even length."""
    return [float(picture[:32, :46].mean()) for picture in frames(path, 34, 48)]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_file())


def test_the_first_three_episodes_are_filmed_from_the_reset_to_the_last_step(tmp_path: Path):
    found = evaluate(Follows(), Lamp, episodes=5, video=tmp_path / "films")
    assert names(tmp_path / "films") == [*FIRST]
    for video, length, value in zip(
        found.videos, found.seeds[0].lengths, found.seeds[0].returns, strict=False
    ):
        assert video.frames == length + 1
        assert video.episode_return == value
        grey = brightness(Path(video.file))
        assert np.allclose(grey, 20.0 * np.arange(length + 1), atol=3)


def test_no_number_depends_on_being_filmed(tmp_path: Path):
    plain = evaluate(Follows(), Lamp, episodes=40, seed=3).to_dict()
    filmed = evaluate(Follows(), Lamp, episodes=40, seed=3, video=tmp_path / "films").to_dict()
    assert [video["episode"] for video in filmed.pop("videos")] == [0, 1, 2]
    assert plain.pop("videos") == []
    for found in (plain, filmed):
        del found["wall_seconds"]
    assert filmed == plain


def test_fewer_episodes_make_fewer_films(tmp_path: Path):
    evaluate(Follows(), Lamp, episodes=2, video=tmp_path)
    assert names(tmp_path) == [*FIRST[:2]]


@pytest.fixture
def lamp_runs(tmp_path: Path) -> Path:
    """A run of two seeds on a log of the lamp."""
    if "Lamp-v0" not in gymnasium.registry:
        gymnasium.register("Lamp-v0", lambda **given: Lamp(**given))
    rng = np.random.default_rng(0)
    columns = rng.uniform(-1, 1, (55, 3)).astype(np.float32), rng.uniform(-2, 2, (50, 1))
    data = offrl.Dataset.from_arrays(
        columns[0],
        columns[1].astype(np.float32),
        rng.normal(size=50),
        np.arange(50) % 10 == 9,
        np.zeros(50, bool),
        observation_space=Lamp.observation_space,
        action_space=Lamp.action_space,
    )
    out = tmp_path / "run"
    offrl.fit("bc", data, steps=2, seeds=(0, 4), out=out, compile="off", hidden_size=8)
    return out


def test_the_command_films_every_seed_and_tells_the_same_numbers(
    lamp_runs: Path, capsys: pytest.CaptureFixture[str]
):
    words = ["eval", str(lamp_runs), "--env", "Lamp-v0", "--episodes", "4"]
    assert main(words) == 0
    plain = capsys.readouterr().out.splitlines()
    assert main([*words, "--video", "films"]) == 0
    filmed = capsys.readouterr().out.splitlines()
    assert [line for line in filmed if not line.startswith("videos")] == plain
    assert [line.split() for line in filmed if line.startswith("videos")] == [
        ["videos", "6", "in", "films"]
    ]
    assert names(Path("films")) == [f"seed_{seed}-{name}" for seed in (0, 4) for name in FIRST]
    kept = offrl.load_run(lamp_runs).result["evaluation"]
    assert [video["file"] for video in kept["videos"]] == [
        str(Path("films", name)) for name in names(Path("films"))
    ]


def test_an_environment_without_pictures_is_refused_before_an_episode_begins(tmp_path: Path):
    with pytest.raises(EnvError, match=r"Dark gives no pictures: its render modes are ansi, and"):
        evaluate(Follows(), Dark, video=tmp_path / "films")
    assert not (tmp_path / "films").exists()


def test_an_environment_that_was_made_to_draw_otherwise_is_refused(tmp_path: Path):
    with pytest.raises(EnvError, match=r"render_mode=None, and videos need 'rgb_array'"):
        evaluate(Follows(), lambda: Lamp(render_mode=None), video=tmp_path)


@pytest.mark.parametrize("drawn", [None, np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3))])
def test_what_is_no_picture_is_refused(drawn: Any, tmp_path: Path, monkeypatch: Any):
    monkeypatch.setattr(Lamp, "render", lambda self: drawn)
    with pytest.raises(EnvError, match="which is no picture"):
        evaluate(Follows(), Lamp, video=tmp_path)


def test_a_film_that_is_there_is_left_alone(tmp_path: Path):
    (tmp_path / "episode_1.mp4").write_text("mine")
    with pytest.raises(ConfigError, match=r"episode_1.mp4 is there already"):
        evaluate(Follows(), Lamp, video=tmp_path)
    assert names(tmp_path) == ["episode_1.mp4"]
    assert (tmp_path / "episode_1.mp4").read_text() == "mine"
    evaluate(Follows(), Lamp, episodes=1, video=tmp_path)  # names that are free can be had
    assert names(tmp_path) == ["episode_0.mp4", "episode_1.mp4"]


def test_a_file_is_no_folder(tmp_path: Path):
    (tmp_path / "films").write_text("mine")
    with pytest.raises(ConfigError, match="cannot be a folder of videos"):
        evaluate(Follows(), Lamp, video=tmp_path / "films")


def test_without_ffmpeg_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(ConfigError, match=r"pip install 'offrl\[video\]'"):
        evaluate(Follows(), Dark, video=tmp_path / "films")
    assert not (tmp_path / "films").exists()


def test_a_limit_on_steps_and_films_exclude_each_other(tmp_path: Path):
    with pytest.raises(ConfigError, match="no step can be ended alone"):
        evaluate(Follows(), "Pendulum-v1", step_timeout=5.0, video=tmp_path / "films")


def test_an_episode_that_does_not_repeat_itself_is_told(tmp_path: Path):
    class Moody(Lamp):
        played = 0

        def step(self, action: np.ndarray) -> Any:
            Moody.played += 1
            obs, _, *rest = super().step(action)
            return obs, float(Moody.played), *rest

    found = evaluate(Follows(), Moody, episodes=1, video=tmp_path)
    assert "does not repeat itself" in found.notes[-1]
    assert found.videos[0].episode_return != found.return_mean


def test_an_ffmpeg_that_fails_leaves_nothing_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    broken = tmp_path / "ffmpeg"
    broken.write_text("#!/bin/sh\ncat > /dev/null\necho No space left on device >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(broken))
    with pytest.raises(OffrlError, match=r"could not be written: No space left on device\."):
        evaluate(Follows(), Lamp, video=tmp_path / "films")
    assert names(tmp_path / "films") == []


def test_a_failure_while_filming_leaves_only_whole_films(tmp_path: Path):
    class Breaks(Lamp):
        resets = 0

        def reset(self, **given: Any) -> Any:
            Breaks.resets += 1
            return super().reset(**given)

        def step(self, action: np.ndarray) -> Any:
            # one reset of the first picture, three evaluated, then the second film
            if Breaks.resets == 6 and self.steps == 2:
                raise RuntimeError("broken")
            return super().step(action)

    with pytest.raises(WorkError, match="broken"):
        evaluate(Follows(), Breaks, episodes=3, n_envs=1, video=tmp_path)
    assert names(tmp_path) == ["episode_0.mp4"]
    assert len(brightness(tmp_path / "episode_0.mp4")) > 5


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = sys.argv[2:]
from evaluation_test_video import Follows, Lamp
from offrl.evaluation.evaluate import evaluate

class Dies(Lamp):
    resets = 0
    def reset(self, **given):
        Dies.resets += 1
        return super().reset(**given)
    def step(self, action):
        if Dies.resets == 4 and self.steps == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().step(action)

evaluate(Follows(), Dies, episodes=2, n_envs=1, video=sys.argv[1])
"""


def test_a_kill_while_filming_leaves_no_half_film_under_its_name(tmp_path: Path):
    (tmp_path / "evaluation_test_video.py").write_text(Path(__file__).read_text())
    died = tmp_path / "films"
    # one reset of the first picture, two evaluated: the kill comes in the first film
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(died), str(tmp_path), *sys.path], check=False
    )
    assert done.returncode == -9
    assert [name for name in names(died) if not name.startswith(".")] == []


@pytest.mark.skipif(sys.platform != "linux", reason="EGL is for Linux")
class TestDrawingWithoutADisplay:
    def test_it_is_by_egl_and_in_memory(self):
        draw_without_display()
        only_osmesa = bool(find_library("OSMesa")) and not find_library("EGL")
        assert os.environ["MUJOCO_GL"] == ("osmesa" if only_osmesa else "egl")
        assert os.environ["SDL_VIDEODRIVER"] == "dummy"

    @pytest.mark.parametrize("key", ["MUJOCO_GL", "SDL_VIDEODRIVER"])
    def test_what_was_chosen_stays(self, key: str, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv(key, "mine")
        draw_without_display()
        assert os.environ[key] == "mine"

    @pytest.mark.parametrize("key", ["DISPLAY", "WAYLAND_DISPLAY"])
    def test_a_display_is_used(self, key: str, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv(key, ":0")
        draw_without_display()
        assert not {"MUJOCO_GL", "SDL_VIDEODRIVER"} & set(os.environ)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("mujoco") is None, reason="mujoco is not installed: offrl[mujoco]")
@pytest.mark.skipif(
    find_library("EGL") is None, reason="there is no EGL here: apt-get install libegl1"
)
class TestMuJoCo:
    @pytest.fixture
    def hopper(self, tmp_path: Path) -> Path:
        rng = np.random.default_rng(0)
        data = offrl.Dataset.from_arrays(
            rng.normal(size=(55, 11)),
            rng.uniform(-1, 1, (50, 3)).astype(np.float32),
            rng.normal(size=50),
            np.arange(50) % 10 == 9,
            np.zeros(50, bool),
            observation_space=spaces.Box(-np.inf, np.inf, (11,), np.float64),
            action_space=spaces.Box(-1.0, 1.0, (3,), np.float32),
            env="Hopper-v5",
        )
        offrl.fit("bc", data, steps=2, out=tmp_path / "run", compile="off", hidden_size=8)
        return tmp_path / "run"

    def eval(self, run: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
        kept = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY")}
        words = ["eval", str(run), "--episodes", "2", "--video", "films"]
        return subprocess.run(
            [sys.executable, "-m", "offrl_cli", *words],
            env={**kept, "MUJOCO_GL": "", **environment},
            capture_output=True,
            text=True,
            check=False,
        )

    def test_it_is_drawn_without_a_display(self, hopper: Path):
        done = self.eval(hopper)
        assert (done.returncode, "videos" in done.stdout) == (0, True), done.stderr
        shown = frames(Path("films", "seed_0-episode_0.mp4"), 480, 480).astype(int)
        first, last = shown[0], shown[-1]
        assert first.std() > 20  # no empty picture
        assert np.abs(first - last).max() > 50  # and it moves

    def test_where_egl_fails_the_packages_are_named(self, hopper: Path):
        done = self.eval(hopper, __EGL_VENDOR_LIBRARY_FILENAMES="/nonexistent")
        assert (done.returncode, done.stdout) == (1, "")
        assert "MUJOCO_GL is egl" in done.stderr
        assert "apt-get install libegl1" in done.stderr
        assert "Traceback" not in done.stderr
        assert not Path("films").exists()
