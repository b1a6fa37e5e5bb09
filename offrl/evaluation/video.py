"""Episodes as mp4 files: drawn by the environment, written by ffmpeg, whole or absent.

    DIR/seed_0-episode_0.mp4      the first episodes of each training seed, one file each

An episode is a function of policy, environment and (seed, number) alone, so what is filmed is
played once more, by itself, in an environment that draws: the evaluation is the same with and
without videos, and an episode that did not come out alike is noticed. While a file is written it
has a hidden, temporary name.
"""

import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from ctypes.util import find_library
from dataclasses import dataclass
from pathlib import Path
from typing import Any, SupportsFloat

import gymnasium
import numpy as np

from offrl.errors import ConfigError, EnvError, OffrlError, WorkError
from offrl.evaluation.rollouts import Env, Rollouts

EPISODES = 3  # of each seed
RATE = 30.0  # frames a second, where the environment names no rate
DRAWS = "rgb_array"
ENDING = 10.0  # seconds in which an ffmpeg that failed ends
INSTALL = "pip install 'offrl[video]'"
DRAWING = ("/OpenGL/", "/mujoco/egl/", "/mujoco/osmesa/", "mujoco_rendering", "gl_context")
PACKAGES = "libegl1 libegl-mesa0 libgl1-mesa-dri"  # Debian's, for MuJoCo without a display


@dataclass(frozen=True)
class Video:
    """One film: whose episode it shows, and what that came to."""

    file: str
    seed: int | None  # of the training
    episode: int
    episode_return: float
    frames: int

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON."""
        return {
            "file": self.file,
            "seed": self.seed,
            "episode": self.episode,
            "return": self.episode_return,
            "frames": self.frames,
        }


def draw_without_display() -> None:
    """Where there is no display, have MuJoCo draw by EGL, else OSMesa, and pygame in memory.

    What was chosen stays. MuJoCo looks at MUJOCO_GL when it is imported, so this comes before any
    environment is made.
    """
    display = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if display or sys.platform != "linux":
        return
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    if not os.environ.get("MUJOCO_GL"):
        egl, osmesa = find_library("EGL"), find_library("OSMesa")
        os.environ["MUJOCO_GL"] = "osmesa" if osmesa and not egl else "egl"


class Films:
    """The first episodes of each seed, filmed one after the other into a folder."""

    def __init__(
        self,
        folder: Path,
        seeds: Sequence[int | None],
        episodes: int,
        plain: Callable[[], Env],
        drawing: Callable[[], Env],
    ) -> None:
        """Make the folder, and draw a first picture with one of the `drawing` environments.

        Raises ConfigError where ffmpeg is missing, the folder cannot be one or a file is there;
        EnvError where nothing can be drawn.
        """
        _ffmpeg()
        self.files = {
            seed: [folder / _name(seed, n) for n in range(min(episodes, EPISODES))]
            for seed in seeds
        }
        self.drawing = drawing
        self.videos, self.notes = list[Video](), list[str]()
        for path in (path for paths in self.files.values() for path in paths):
            if path.exists():
                raise ConfigError(f"{path} is there already.", "Name another folder, or delete it.")
        try_drawing(plain, drawing)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"{folder} cannot be a folder of videos: {error.strerror or error}.",
                "Name a folder that you may write to.",
            ) from error

    @property
    def total(self) -> int:
        """The number of films."""
        return sum(len(files) for files in self.files.values())

    def shoot(
        self, seed: int | None, play: Callable[[Env, int], Rollouts], returns: Sequence[float]
    ) -> None:
        """Have `play` play as many episodes as there are files of `seed`; `returns` are known."""
        files = self.files[seed]
        film = Film(self.drawing(), files)
        try:
            played = play(film, len(files)).returns.tolist()
        except BaseException:
            film.drop()
            raise
        film.finish()
        for episode, (path, came) in enumerate(zip(files, played, strict=True)):
            self.videos.append(Video(str(path), seed, episode, came, film.frames[episode]))
            if came != returns[episode]:
                self.notes.append(
                    f"{path} shows a return of {came:g} and {returns[episode]:g} was evaluated: the"
                    " environment, or the policy, does not repeat itself from one seed."
                )


def try_drawing(plain: Callable[[], Env], drawing: Callable[[], Env]) -> None:
    """Draw one picture, so that what cannot be drawn is known before anything is evaluated.

    Raises EnvError where the environment has no pictures, or where drawing fails.
    """
    env = _made(plain)
    try:
        modes, name = env.metadata.get("render_modes") or (), _env_name(env)
    finally:
        env.close()
    if DRAWS not in modes:
        ways = ", ".join(map(str, modes)) or "none"
        raise EnvError(
            f"{name} gives no pictures: its render modes are {ways}, and videos need {DRAWS}.",
            "Leave the videos out (--video), or give an environment that draws.",
        )
    env = _made(drawing)
    try:
        if env.render_mode != DRAWS:
            raise EnvError(
                f"{name} was made with render_mode={env.render_mode!r}, and videos need {DRAWS!r}.",
                f"Make it with render_mode={DRAWS!r}.",
            )
        env.reset(seed=0)
        picture(env)
    finally:
        env.close()


def _made(make: Callable[[], Env]) -> Env:
    try:
        return make()
    except EnvError as error:  # MuJoCo looks for a way to draw as it is imported
        raise EnvError(error.cause, _advice(error) or error.remedy) from error


def picture(env: Env) -> np.ndarray:
    """Return what the environment looks like now, [height, width, 3] uint8.

    Raises EnvError where it cannot be drawn, saying what to install.
    """
    try:
        drawn: Any = env.render()
    except Exception as error:
        cause = f"{_env_name(env)} could not be drawn ({type(error).__name__}: {error})."
        advice = _advice(error) or "Install what it draws with, or mend its render()."
        with _quiet_ends():  # half a viewer of MuJoCo's raises once more as it goes
            traceback.clear_frames(error.__traceback__)
        raise EnvError(cause, advice) from error
    pixels = np.asarray(drawn)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise EnvError(
            f"{_env_name(env)} drew {pixels.dtype} {pixels.shape}, which is no picture"
            " (height, width, 3) of uint8.",
            "Mend its render().",
        )
    return pixels


class Film(gymnasium.Wrapper[Any, Any, Any, Any]):
    """An environment of which each episode becomes a file, in their order."""

    def __init__(self, env: Env, files: list[Path]) -> None:
        super().__init__(env)
        self.rate = float(env.metadata.get("render_fps") or RATE)
        self.frames = [0] * len(files)
        self._files, self._next = files, 0
        self._writer: _Writer | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin the next episode, and its file."""
        begun = self.env.reset(seed=seed, options=options)
        self.finish()
        self._next += 1
        self._shoot()
        return begun

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Take a step, and a picture of what came of it."""
        taken = self.env.step(action)
        self._shoot()
        return taken

    def finish(self) -> None:
        """Give the last file its name."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.finish()

    def drop(self) -> None:
        """Leave the last file out: something went wrong."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.drop()

    def _shoot(self) -> None:
        pixels = picture(self.env)
        if self._writer is None:
            self._writer = _Writer(self._files[self._next - 1], pixels.shape, self.rate)
        self._writer.write(pixels)
        self.frames[self._next - 1] += 1


class _Writer:
    """One file in the making, by an ffmpeg of its own."""

    def __init__(self, path: Path, shape: tuple[int, ...], rate: float) -> None:
        height, width = shape[:2]
        self.path, self.shape = path, shape
        self.temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
        words = [
            _ffmpeg(), "-y", "-v", "error", "-nostdin",
            "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", f"{rate:g}",
            "-i", "-", "-an",
            # What players understand: colours of half the resolution, so sides of even length.
            "-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2", "-pix_fmt", "yuv420p", "-c:v", "libx264",
            "-movflags", "+faststart", "-f", "mp4", str(self.temporary),
        ]  # fmt: skip
        # A group of its own: Ctrl-C in a terminal reaches this process alone.
        self._ffmpeg = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            process_group=0,
        )

    def write(self, pixels: np.ndarray) -> None:
        """Add a picture."""
        if pixels.shape != self.shape:
            self.drop()
            raise WorkError(
                f"A picture of {self.path.name} is {pixels.shape}, and the first was {self.shape}.",
                "Have the environment draw in one size.",
            )
        try:
            self._input.write(np.ascontiguousarray(pixels).data)
        except OSError as error:
            raise self._failed() from error

    def finish(self) -> None:
        """Give the file its name, once it is whole."""
        try:
            self._input.close()
            if self._ffmpeg.wait() != 0:
                raise self._failed()
            self.temporary.replace(self.path)
        except OSError as error:
            raise self._failed() from error
        finally:
            self.drop()

    def drop(self) -> None:
        """End ffmpeg where it still runs, and leave nothing unfinished."""
        self._ffmpeg.kill()
        self._ffmpeg.wait()
        for stream in (self._input, self._errors):
            with suppress(OSError):
                stream.close()
        self.temporary.unlink(missing_ok=True)

    @property
    def _input(self) -> Any:
        return self._ffmpeg.stdin

    @property
    def _errors(self) -> Any:
        return self._ffmpeg.stderr

    def _failed(self) -> OffrlError:
        try:  # it says why, and ends
            status = self._ffmpeg.wait(ENDING)
        except subprocess.TimeoutExpired:
            self._ffmpeg.kill()
            status = self._ffmpeg.wait()
        said = self._errors.read().decode(errors="replace").strip().splitlines()
        self.drop()
        return OffrlError(
            f"{self.path} could not be written: {said[-1] if said else f'status {status}'}.",
            "Make room, or name another folder.",
        )


def _ffmpeg() -> str:
    try:
        from imageio_ffmpeg import get_ffmpeg_exe
    except ImportError as error:
        raise ConfigError("Videos need ffmpeg, which an extra of offrl brings.", INSTALL) from error
    try:
        return str(get_ffmpeg_exe())
    except RuntimeError as error:
        raise ConfigError(
            f"There is no ffmpeg for videos: {error}", "Set IMAGEIO_FFMPEG_EXE to one."
        ) from error


def _name(seed: int | None, episode: int) -> str:
    return f"{'' if seed is None else f'seed_{seed}-'}episode_{episode}.mp4"


def _env_name(env: Env) -> str:
    return env.spec.id if env.spec is not None else type(env.unwrapped).__name__


def _advice(error: BaseException) -> str:
    """Return what to install where OpenGL was at fault; "" where it was not."""
    link: BaseException | None = error
    while link is not None:
        files = (frame.f_code.co_filename for frame, _ in traceback.walk_tb(link.__traceback__))
        if any(part in file for file in files for part in DRAWING):
            chosen = os.environ.get("MUJOCO_GL") or "not set"
            return (
                f"MUJOCO_GL is {chosen}. Without a display MuJoCo draws by egl: on Debian apt-get"
                f" install {PACKAGES}; or by osmesa: libosmesa6, with MUJOCO_GL=osmesa."
            )
        link = link.__cause__
    return ""


@contextmanager
def _quiet_ends() -> Iterator[None]:
    """Say nothing of what raises while it is being deleted."""
    before = sys.unraisablehook
    sys.unraisablehook = lambda _: None
    try:
        yield
    finally:
        sys.unraisablehook = before
