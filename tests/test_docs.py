"""README and docs: every Python block and every command in them runs, and prints what they say.

A block ```python that begins with `# name.py` becomes that file; any other is run as a script of
its own. In a block ```console, lines after `$ ` are commands, and what follows is compared with
their output, numbers apart. The blocks of a page share a folder and run in order.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)[^)]*\)")

# Pages that start from other people's files, under the folder of real data.
BRINGS = {"docs/bring-your-logs.md": "imitation-testdata/pendulum_0_rollouts.npz"}
# Pages that start with nothing collected; the others find this dataset in place.
FROM_NOTHING = {"README.md"}
COLLECTED = "offrl/pendulum/medium-v0"


class Block(NamedTuple):
    language: str
    text: str


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page that run."""
    found = [Block(*match.groups()) for match in FENCE.finditer(page.read_text())]
    return [block for block in found if block.language in ("python", "console")]


def commands(text: str) -> Iterator[tuple[str, str]]:
    """Each command of a console block with the output that the page shows below it."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, shown = part.partition("\n")
        while command.endswith("\\"):
            more, _, shown = shown.partition("\n")
            command = command[:-1] + more
        yield command, shown


def words(text: str) -> list[str]:
    """The words of an output; numbers, times, rules and digests differ between machines."""
    plain = re.sub(r"\S*/datasets/", "", text)  # the Minari root
    plain = re.sub(r"sha256:[0-9a-f]+|\d{8}-\d{6}", "#", plain)
    plain = re.sub(r"[-+]?\d[\d,.:]*(e[-+]?\d+)?%?", "#", plain)
    return [w for w in re.sub(r"[─━│┃┏┓┗┛┡┩└┘┌┐├┤┬┴┼╇╋┳┻╰╯╭╮]", " ", plain).split() if w != "#"]


@pytest.fixture(scope="session")
def collected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Minari root that holds the dataset which the pages train on."""
    import offrl

    root = tmp_path_factory.mktemp("collected")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(root))
        offrl.record(COLLECTED)
    return root


def run(command: list[str], folder: Path) -> str:
    """Run a command in `folder` and return its standard output; fail with all that it said."""
    bin_folder = str(Path(sys.executable).parent)
    environment = {
        **os.environ,
        "PATH": bin_folder + os.pathsep + os.environ["PATH"],
        "COLUMNS": "100",
        "NO_COLOR": "1",
    }
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.timeout(3000)  # a page trains for real
@pytest.mark.parametrize(
    "page",
    [pytest.param(p, id=p.relative_to(ROOT).as_posix()) for p in PAGES if blocks(p)],
)
def test_every_block_runs_and_prints_what_the_page_shows(
    page: Path, tmp_path: Path, request: pytest.FixtureRequest
):
    name = page.relative_to(ROOT).as_posix()
    if name in BRINGS:
        shutil.copy(request.getfixturevalue("realdata") / BRINGS[name], tmp_path)
    if name not in FROM_NOTHING:
        root = request.getfixturevalue("collected")
        shutil.copytree(root, os.environ["MINARI_DATASETS_PATH"], dirs_exist_ok=True)

    for number, block in enumerate(blocks(page)):
        if block.language == "console":
            for command, shown in commands(block.text):
                printed = run(["bash", "-c", command], tmp_path)
                assert words(printed) == words(shown), f"{command}\n{printed}"
        elif (title := re.match(r"# (\w+\.py)\n", block.text)) is not None:
            (tmp_path / title[1]).write_text(block.text)
        else:
            script = tmp_path / f"block_{number}.py"
            script.write_text(block.text)
            run([sys.executable, "-W", "error", str(script)], tmp_path)


@pytest.mark.parametrize(
    "page", [pytest.param(p, id=p.relative_to(ROOT).as_posix()) for p in PAGES]
)
def test_every_link_inside_the_project_leads_somewhere(page: Path):
    targets = [t for t in LINK.findall(page.read_text()) if "://" not in t]
    missing = [t for t in targets if not (page.parent / t).exists()]
    assert not missing


def test_the_changelog_and_the_package_agree_on_the_version():
    import offrl

    assert f'version = "{offrl.__version__}"' in (ROOT / "pyproject.toml").read_text()
    assert f"version: {offrl.__version__}" in (ROOT / "CITATION.cff").read_text()
