"""What docs/lecture.md names is there: its functions, its commands, its tests and its numbers."""

import importlib
import os
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from named_tests import NAMED, ROOT, defined_in
from test_docs import blocks, commands, run

import offrl
from offrl.algorithm import fields_of
from offrl.algos import get
from offrl_cli import main

PAGE = ROOT / "docs" / "lecture.md"
TEXT = PAGE.read_text()
PROSE = re.sub(r"^```.*?^```$", "", TEXT, flags=re.MULTILINE | re.DOTALL)
SECTIONS = {
    part.partition("\n")[0]: part for part in re.split(r"^## (?=\d)", PROSE, flags=re.MULTILINE)[1:]
}
# Flags of the command itself, beside the settings of the algorithm.
OF_TRAIN = {"algo", "dataset", "steps", "seed", "seeds", "holdout"}
SIZE = "--steps 40 --hidden-size 8 --batch-size 16 --compile off"


def functions(text: str) -> list[str]:
    """The dotted names `offrl.module.name` of a text."""
    return re.findall(r"`(offrl(?:\.\w+)+)`", text)


def typed(text: str) -> list[str]:
    """The command lines `offrl <words>` of a text."""
    return re.findall(r"`(offrl [^`]+)`", text)


def found(dotted: str) -> Any:
    """What a dotted name stands for: the longest module that can be imported, then attributes."""
    parts = dotted.split(".")
    for n in range(len(parts), 0, -1):
        try:
            thing: Any = importlib.import_module(".".join(parts[:n]))
        except ModuleNotFoundError:
            continue
        for part in parts[n:]:
            thing = getattr(thing, part)
        return thing
    raise AssertionError(dotted)


@pytest.mark.parametrize("dotted", sorted(set(functions(TEXT))))
def test_every_function_on_the_page_is_there(dotted: str):
    assert found(dotted) is not None


def test_a_function_that_is_gone_would_be_told():
    with pytest.raises(AttributeError):
        found("offrl.losses.no_such_loss")
    with pytest.raises(AttributeError):
        found("offrl.no_such_module.loss")


def test_every_test_on_the_page_is_there():
    named = NAMED.findall(TEXT)
    assert TEXT.count("`tests/") == len(named)
    for path, group, name in named:
        assert (group, name) in defined_in(path), f"{path}::{group}::{name}"


@pytest.mark.parametrize("line", sorted(set(typed(TEXT))))
def test_every_command_on_the_page_names_settings_that_are_there(line: str):
    _, command, *words = shlex.split(line)
    assert command == "train"
    given = dict(zip(words[::2], words[1::2], strict=True))
    settings = {field.name for field in fields_of(get(given["--algo"]).Config)}
    assert {flag.removeprefix("--").replace("-", "_") for flag in given} <= settings | OF_TRAIN


def test_each_section_has_code_that_implements_it_and_a_test_that_proves_it():
    assert len(SECTIONS) == 8
    for title, section in SECTIONS.items():
        assert functions(section), title
        assert NAMED.findall(section), title
        if title[0] in "234678":  # the others are identities: nothing is trained by them
            assert typed(section), title


def programs() -> Iterator[tuple[str, str]]:
    """Each program on the page and what the page says that it prints."""
    shown = {
        command: output
        for block in blocks(PAGE)
        if block.language == "console"
        for command, output in commands(block.text)
    }
    for block in blocks(PAGE):
        if block.language == "python":
            name = block.text.split()[1]
            yield block.text, shown[f"python {name}"]


@pytest.mark.parametrize("program", list(programs()), ids=lambda program: program[0].split()[1])
def test_every_number_of_a_program_is_printed_as_shown(program: tuple[str, str], tmp_path: Path):
    text, shown = program
    (tmp_path / "program.py").write_text(text)
    assert run(["python", "program.py"], tmp_path).strip() == shown.strip()


@pytest.fixture(scope="module")
def collected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Minari root with a little of every dataset on the page."""
    root = tmp_path_factory.mktemp("collected")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(root))
        for dataset in sorted(set(re.findall(r"--dataset ([\w/-]+)", TEXT))):
            offrl.record(dataset, env_steps=600)
    return root


@pytest.mark.slow
@pytest.mark.parametrize("line", sorted(set(typed(TEXT))))
def test_every_command_on_the_page_runs(line: str, collected: Path):
    shutil.copytree(collected, os.environ["MINARI_DATASETS_PATH"], dirs_exist_ok=True)
    _, *words = shlex.split(line)
    if "--policy" in words:  # a run that is there already
        policy, data = (words[words.index(flag) + 1] for flag in ("--policy", "--dataset"))
        made = f"train --algo bc --dataset {data} {SIZE} --out {policy}"
        assert main(made.split()) == 0
    assert main([*words, *f"{SIZE} --out runs/small".split()]) == 0
