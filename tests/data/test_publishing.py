"""A dataset is whole under its id, or it is not there; what was finished is not lost."""

import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from recordings import (
    ACT,
    ID,
    OBS,
    folder,
    kept_episodes,
    record,
    record_steps,
    unfinished,
    visible,
    writer,
)

from offrl.data import durable, publishing, shards
from offrl.data.catalogue import datasets_root
from offrl.data.dataset import load
from offrl.data.writer import Writer
from offrl.errors import ConfigError, CorruptDataError, LockedError, NotFoundError, OffrlError


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk on which 1000 bytes are free."""
    usage = shutil.disk_usage(Path.cwd())._replace(free=1000)
    monkeypatch.setattr(publishing.shutil, "disk_usage", lambda path: usage)


class TestNothingHalfMadeIsVisible:
    def test_until_it_is_closed(self) -> None:
        w = writer()
        for i in range(9):
            record_steps(w, i)
        assert visible() == []
        with pytest.raises(NotFoundError):
            load(ID)
        w.close()
        assert visible() == [ID]
        assert not unfinished().exists()

    def test_after_an_exception_and_the_id_can_be_used_again(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        with pytest.raises(ZeroDivisionError):
            record(1, ZeroDivisionError)
        assert visible() == []
        assert record().n_episodes == 10
        assert visible() == [ID]
        aside = folder().with_name("loop-v0.incomplete-1")
        assert (aside / "manifest.json").is_file()
        assert str(aside) in caplog.text

    def test_after_an_exception_before_the_first_episode_nothing_is_left(self) -> None:
        with pytest.raises(ZeroDivisionError):
            record(0, ZeroDivisionError)
        assert not folder().parent.exists()

    @pytest.mark.usefixtures("full_disk")
    def test_a_save_that_fails_leaves_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(publishing, "_SPARE_BYTES", -(2**40))
            first = record()
        with pytest.raises(OffrlError, match="are free"):
            first.save("me/test/copy-v0")
        assert visible() == [ID]
        assert [p.name for p in folder().parent.iterdir()] == ["loop-v0"]

    def test_a_writer_without_episodes_publishes_nothing(self) -> None:
        with pytest.raises(ConfigError, match="Nothing was recorded"):
            record(0)
        assert visible() == []


class TestResume:
    def interrupted(self) -> None:
        with pytest.raises(KeyboardInterrupt):
            record(5, KeyboardInterrupt)

    def test_continues_to_the_same_fingerprint(self) -> None:
        self.interrupted()
        assert kept_episodes() == 5
        resumed = record(first=5, resume=True).fingerprint
        assert record(overwrite=True).fingerprint == resumed

    def test_starts_afresh_where_there_is_nothing(self) -> None:
        assert record(1, resume=True).n_episodes == 1

    def test_knows_the_settings_of_what_was_stopped_before_its_first_episode(self) -> None:
        with pytest.raises(KeyboardInterrupt):
            record(0, KeyboardInterrupt)
        assert unfinished().exists()
        assert record(2, resume=True).n_episodes == 2
        with pytest.raises(KeyboardInterrupt):
            record(0, KeyboardInterrupt, overwrite=True)
        assert record(1, overwrite=True, metadata={"other": 1}).n_episodes == 1

    def test_refuses_other_settings_and_names_them(self) -> None:
        self.interrupted()
        with pytest.raises(ConfigError, match=r"seeds null -> 3"):
            writer(resume=True, metadata={"seeds": 3})
        assert kept_episodes() == 5

    def test_says_where_versions_have_changed(
        self, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.interrupted()
        monkeypatch.setattr(publishing, "versions", lambda: {"gymnasium": "0.29"})
        assert kept_episodes() == 5
        assert "other versions" in caplog.text

    def test_finds_a_damaged_shard(self) -> None:
        self.interrupted()
        shard = unfinished() / "shards" / "000000.hdf5"
        content = bytearray(shard.read_bytes())
        content[len(content) // 2] ^= 1
        shard.write_bytes(content)
        with pytest.raises(CorruptDataError, match=r"000000\.hdf5 is damaged"):
            writer(resume=True)
        shard.write_bytes(content[:-10])
        with pytest.raises(CorruptDataError, match=r"has \d+ bytes; \d+ were written"):
            writer(resume=True)
        shard.unlink()
        with pytest.raises(CorruptDataError, match="is missing"):
            writer(resume=True)

    @pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"format": 1}', b"\xff"])
    def test_finds_a_damaged_manifest(self, content: bytes) -> None:
        self.interrupted()
        (unfinished() / shards.MANIFEST).write_bytes(content)
        with pytest.raises(CorruptDataError, match=r"manifest\.json"):
            writer(resume=True)

    def test_finishes_what_could_not_be_put_together(self, monkeypatch: pytest.MonkeyPatch) -> None:
        died = subprocess.CompletedProcess([], -signal.SIGSEGV, "", "")
        with monkeypatch.context() as patch:
            patch.setattr(publishing.subprocess, "run", lambda *_, **__: died)
            with pytest.raises(OffrlError, match="-11"):
                record()
        assert visible() == []
        assert record(first=10, resume=True).n_episodes == 10

    def test_names_the_shard_that_was_damaged_before_the_end(self) -> None:
        w = writer()
        for i in range(9):
            record_steps(w, i)
        shard = unfinished() / "shards" / "000000.hdf5"
        shard.write_bytes(shard.read_bytes()[:-1] + b"x")
        with pytest.raises(OffrlError, match=r"000000\.hdf5 is damaged"):
            w.close()
        assert visible() == []

    @pytest.mark.usefixtures("full_disk")
    def test_is_possible_after_a_refusal_for_want_of_room(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with pytest.raises(OffrlError, match=r"needs \d.* MB .* and 0\.0 MB are free"):
            record()
        monkeypatch.setattr(publishing, "_SPARE_BYTES", -(2**40))
        assert record(first=10, resume=True).n_episodes == 10

    def test_a_killed_process_loses_at_most_the_open_shard(self) -> None:
        code = (
            "import os, signal, sys\n"
            f"sys.path[:0] = {[str(Path(__file__).parent.parent)]!r}\n"
            "from recordings import record_steps, writer\n"
            "w = writer()\n"
            "for i in range(19): record_steps(w, i)\n"
            "os.kill(os.getpid(), signal.SIGKILL)\n"
        )
        done = subprocess.run([sys.executable, "-c", code], check=False)
        assert done.returncode == -signal.SIGKILL
        assert visible() == []
        assert kept_episodes() == 16
        resumed = record(20, first=16, resume=True).fingerprint
        assert record(20, overwrite=True).fingerprint == resumed

    def test_what_a_kill_after_publication_leaves_is_swept(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupt(self: publishing.Workshop) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(publishing.Workshop, "_remove", interrupt)
            with pytest.raises(KeyboardInterrupt):
                record()
        assert unfinished().exists()
        assert visible() == [ID]
        with pytest.raises(ConfigError, match="exists already"):
            writer()
        assert not unfinished().exists()


class TestAnExistingId:
    def test_is_refused_and_untouched(self) -> None:
        before = record().fingerprint
        content = (folder() / "data" / "main_data.hdf5").read_bytes()
        with pytest.raises(ConfigError, match=r"exists already"):
            writer()
        assert (folder() / "data" / "main_data.hdf5").read_bytes() == content
        assert load(ID).fingerprint == before

    def test_is_replaced_with_overwrite_and_there_until_then(self) -> None:
        before = record().fingerprint
        with writer(overwrite=True) as w:
            record_steps(w, 99)
            assert load(ID).fingerprint == before
        assert load(ID).n_episodes == 1
        assert [p.name for p in folder().parent.iterdir()] == ["loop-v0"]

    def test_survives_an_overwrite_that_fails(self) -> None:
        before = record().fingerprint
        with pytest.raises(ZeroDivisionError):
            record(1, ZeroDivisionError, overwrite=True)
        assert load(ID).fingerprint == before

    def test_is_swapped_where_the_system_cannot_exchange_folders(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        record()
        monkeypatch.setattr(durable, "_exchange", lambda new, old: False)
        assert record(1, overwrite=True).n_episodes == 1
        assert [p.name for p in folder().parent.iterdir()] == ["loop-v0"]

    def test_is_put_back_where_the_swap_fails_half_way(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr(durable, "_exchange", lambda new, old: False)
        old = tmp_path / "old"
        (old / "content").mkdir(parents=True)
        with pytest.raises(OSError, match="No such file"):
            durable.swap_folders(tmp_path / "absent", old)
        assert (old / "content").is_dir()


class TestAFolderThatCannotBeWritten:
    def test_is_named_before_anything_is_recorded(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(OffrlError, match=r"Nothing can be written in .*file") as caught:
            writer(root=tmp_path / "file")
        assert caught.value.exit_code == 1

    def test_a_refusal_of_the_system_is_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(path: Path, content: bytes) -> None:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

        monkeypatch.setattr(shards, "write_file", refuse)
        with pytest.raises(OffrlError, match="Permission denied"):
            writer()

    def test_an_id_that_leaves_the_root_is_refused_before_any_folder_is_made(self) -> None:
        with pytest.raises(ConfigError):
            Writer("../out-v0", OBS, ACT)
        assert not datasets_root().exists()
        assert not list(datasets_root().parent.glob("out*"))


class TestADiskThatFails:
    @pytest.mark.parametrize("working", range(6))
    def test_leaves_the_state_before_or_after_each_write(
        self, monkeypatch: pytest.MonkeyPatch, working: int
    ) -> None:
        """The writing of 16 episodes fails at every call that makes bytes durable."""
        calls: list[int] = []

        def fsync(descriptor: int) -> None:
            calls.append(descriptor)
            if len(calls) > working:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patch:
            patch.setattr(durable.os, "fsync", fsync)
            with pytest.raises(OffrlError, match="No space left"):
                record(16)
        assert not list(unfinished().rglob("*.tmp-*"))
        kept = kept_episodes()
        assert kept in (0, 8, 16)
        whole = record(16, first=kept, resume=True)
        assert [e.seed for e in whole] == list(range(16))


class TestAFileSizeLimit:
    """What a full disk does to HDF5, which dies of it when it writes by itself."""

    @pytest.mark.parametrize("limit", [10_000, 40_000])
    def test_ends_in_an_error_and_never_in_a_signal(self, limit: int) -> None:
        code = (
            "import resource, signal, sys\n"
            f"sys.path[:0] = {[str(Path(__file__).parent.parent)]!r}\n"
            "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
            "from offrl.errors import OffrlError\n"
            "from recordings import record\n"
            f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
            "try: record(64)\n"
            "except OffrlError as error: sys.exit(error.cause)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], check=False, capture_output=True, text=True
        )
        assert done.returncode == 1
        assert "File too large" in done.stderr
        assert visible() == []
        whole = record(64, first=kept_episodes(), resume=True)
        assert whole.n_episodes == 64


class TestTwoWriters:
    def test_of_one_id_exclude_each_other(self) -> None:
        first = writer()
        record_steps(first, 0)
        for options in ({}, {"resume": True}):
            with pytest.raises(LockedError, match=f"process {os.getpid()}"):
                writer(**options)
        assert first.close().n_episodes == 1


def test_the_child_that_puts_the_file_together_needs_nothing_of_offrl() -> None:
    code = "import sys; sys.modules['offrl'] = None; import runpy; runpy.run_path(sys.argv[1])"
    arguments: list[Any] = [sys.executable, "-c", code, publishing.consolidation.__file__]
    assert subprocess.run(arguments, check=False).returncode == 0
