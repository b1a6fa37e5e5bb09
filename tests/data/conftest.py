"""A sound dataset in the root of this test, and the command line in this process."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from minari_files import episode, metadata, write_folder

from offrl_cli import main

LENGTHS = (4, 1, 3)


@pytest.fixture
def root() -> Path:
    """The Minari root of this test."""
    folder = Path(os.environ["MINARI_DATASETS_PATH"])
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture
def made(root: Path) -> Path:
    """The folder of me/made-v0: three episodes, the first of them terminated."""
    episodes = [episode(steps, i, terminated=i == 0) for i, steps in enumerate(LENGTHS)]
    write_folder(root / "me" / "made-v0", episodes, metadata(episodes))
    return root / "me" / "made-v0"


@pytest.fixture
def typed(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run `offrl <words>` and return its status, standard output and standard error."""

    def run(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        status = main([str(word) for word in words])
        out, err = capsys.readouterr()
        return status, out, err

    return run
