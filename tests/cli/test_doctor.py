"""`offrl doctor` finds what is there, and says what is missing without failing over it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from offrl.doctor import Finding, examine

Type = Callable[..., Any]


def found(topic: str, name: str) -> Finding:
    return next(f for f in examine().findings if (f.topic, f.name) == (topic, name))


class TestDoctor:
    def test_a_sound_machine_passes(self, type_: Type):
        typed = type_("doctor")
        assert typed.status == 0
        assert "all that offrl needs is here" in typed.out
        assert typed.next == "offrl demo"

    def test_json_lists_every_finding(self, type_: Type):
        report = type_("doctor", "--json").json
        assert report["ok"] is True
        topics = [finding["topic"] for finding in report["findings"]]
        assert set(topics) == {"versions", "devices", "compiler", "rendering", "disk", "extras"}

    def test_a_root_that_cannot_be_written_is_a_problem(
        self, type_: Type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        file = tmp_path / "file"
        file.touch()
        monkeypatch.setenv("MINARI_DATASETS_PATH", str(file / "root"))
        typed = type_("doctor")
        assert typed.status == 1
        assert "MINARI_DATASETS_PATH" in typed.out

    def test_a_missing_compiler_is_worth_a_note(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("PATH", "/nowhere")
        monkeypatch.delenv("CXX", raising=False)
        finding = found("compiler", "c++")
        assert finding.level == "note"
        assert "--compile" in finding.advice

    def test_a_compiler_that_does_not_compile_does_not_count(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        for name in ("g++", "clang++", "c++", "cl"):
            fake = tmp_path / name
            fake.write_text("#!/bin/sh\nexit 1\n")
            fake.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.delenv("CXX", raising=False)
        assert found("compiler", "c++").found == "none that works"
