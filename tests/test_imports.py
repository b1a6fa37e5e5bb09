"""The public names, and what importing them costs."""

import json
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import offrl

IMPORT_SECONDS = 0.25  # a bare interpreter that imports `typing` and `inspect` takes about 0.03
HELP_SECONDS = 1.5  # Typer and rich; with torch it would be about 3


def python(code: str) -> dict[str, object]:
    """Run `code` in a fresh interpreter and return the JSON object on its last line."""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def loaded_by(statement: str) -> tuple[set[str], float]:
    """Top-level modules and the least seconds of three fresh runs of `statement`."""
    code = (
        "import json, sys, time\n"
        "start = time.process_time()\n"
        f"{statement}\n"
        "seconds = time.process_time() - start\n"
        "names = sorted({name.split('.')[0] for name in sys.modules})\n"
        "print()\n"
        "print(json.dumps({'names': names, 'seconds': seconds}))"
    )
    runs = [python(code) for _ in range(3)]
    names, seconds = runs[0]["names"], [run["seconds"] for run in runs]
    assert isinstance(names, list)
    return set(names), min(s for s in seconds if isinstance(s, float))


class TestImportCost:
    def test_importing_offrl_loads_no_library(self):
        names, seconds = loaded_by("import offrl")
        heavy = {"torch", "pandas", "numpy", "gymnasium", "h5py", "minari", "scipy", "typer"}
        assert not names & heavy
        assert seconds < IMPORT_SECONDS

    def test_help_loads_neither_torch_nor_pandas_nor_an_extra(self):
        names, seconds = loaded_by("import offrl_cli; offrl_cli.main(['--help'])")
        assert "typer" in names
        assert not names & {"torch", "pandas", "scipy", "mujoco", "pyarrow", "tensorboard"}
        assert seconds < HELP_SECONDS

    def test_loading_data_needs_no_torch(self):
        names, _ = loaded_by("import offrl; offrl.load, offrl.Writer, offrl.check")
        assert "h5py" in names
        assert not names & {"torch", "pandas", "mujoco", "pyarrow"}

    def test_exact_answers_need_numpy_alone(self):
        names, _ = loaded_by("import offrl.tabular")
        assert "numpy" in names
        assert not names & {"torch", "pandas", "scipy", "gymnasium", "h5py", "minari"}


class TestPublicNames:
    def test_every_name_resolves_and_is_listed(self):
        for name in offrl.__all__:
            assert getattr(offrl, name) is not None
        assert set(offrl.__all__) <= set(dir(offrl))

    def test_none_is_a_submodule_of_offrl(self):
        submodules = {module.name for module in pkgutil.iter_modules(offrl.__path__)}
        assert not submodules & set(offrl.__all__)

    def test_a_name_that_is_not_there_is_an_attribute_error(self):
        assert not hasattr(offrl, "no_such_name")

    def test_a_star_import_brings_exactly_the_public_names(self):
        code = (
            "import json\n"
            "before = set(globals())\n"
            "from offrl import *\n"
            "print(json.dumps({'names': sorted(set(globals()) - before - {'before'})}))"
        )
        assert python(code)["names"] == sorted(offrl.__all__)

    def test_the_package_says_that_it_is_typed(self):
        assert (Path(os.path.dirname(offrl.__file__)) / "py.typed").is_file()
