"""The built wheel, installed away from the checkout."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel made from the source distribution, as an index would serve it."""
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds what the wheel installs, and nothing else."""
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def python(site: Path, code: str) -> dict[str, object]:
    """Run `code` with the installed wheel ahead of the checkout, from another folder."""
    start = f"import sys; sys.path.insert(0, {str(site)!r})\n"
    done = subprocess.run(
        [sys.executable, "-c", start + code], check=True, capture_output=True, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


class TestWheel:
    def test_its_only_top_level_names_are_offrl_and_offrl_cli(self, site: Path):
        names = {p.name for p in site.iterdir() if not p.name.endswith(".dist-info")}
        assert names == {"offrl", "offrl_cli"}

    def test_it_holds_every_recipe_and_card_of_the_checkout(self, site: Path):
        def files(folder: Path) -> set[str]:
            return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}

        assert files(ROOT / "datasets") <= files(site / "offrl" / "_datasets")
        assert files(site / "offrl" / "_datasets")

    def test_recipes_are_found_inside_the_package(self, site: Path):
        found = python(
            site,
            "import json\n"
            "from offrl.data.catalogue import shipped_recipes\n"
            "print(json.dumps({k: str(v) for k, v in shipped_recipes().items()}))",
        )
        assert "offrl/pendulum/medium-v0" in found
        assert all(str(p).startswith(str(site / "offrl" / "_datasets")) for p in found.values())

    def test_the_command_answers(self, site: Path):
        code = (
            "import json, offrl_cli\n"
            "print(json.dumps({'status': offrl_cli.main(['--help']), 'at': offrl_cli.__file__}))"
        )
        answer = python(site, code)
        assert answer["status"] == 0
        assert str(answer["at"]).startswith(str(site))
