import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from devcluster import record
from devcluster.errors import CommandError, DevclusterError
from devcluster.process import Process, run, start_ticks, wait_until
from devcluster.record import Record

STAT = "42 (a) (b c) S 1 42 42 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 987654 1 1 1"


def sleeper() -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])


def test_the_start_time_is_found_behind_any_name() -> None:
    assert start_ticks(STAT) == 987654
    assert start_ticks(STAT.replace(") S ", ") Z ")) is None


def test_a_process_is_known_until_it_ends() -> None:
    with sleeper() as child:
        known = Process.of(child.pid)
        assert known.alive()
        known.kill(signal.SIGKILL)
        child.wait(10)
        assert not known.alive()


def test_a_stranger_with_the_same_number_is_left_alone() -> None:
    with sleeper() as child:
        known = Process.of(child.pid)
        for stranger in (replace(known, started=known.started + 1), replace(known, boot="other")):
            assert not stranger.alive()
            stranger.kill()
        assert child.poll() is None
        child.kill()


def test_a_process_that_is_gone_cannot_be_recorded() -> None:
    with sleeper() as child:
        child.kill()
        child.wait(10)
        with pytest.raises(DevclusterError, match=f"process {child.pid}"):
            Process.of(child.pid)


def test_a_failed_command_tells_its_last_words(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "sh.log"
    with pytest.raises(CommandError, match=r"exit code 3:\nlast words") as caught:
        run(["sh", "-c", "echo last words >&2; exit 3"], log=log)
    assert caught.value.code == 3
    assert log.read_text() == "last words\n"


def test_a_missing_program_is_named() -> None:
    with pytest.raises(DevclusterError, match="no-such-program-here"):
        run(["no-such-program-here"])


def test_every_line_is_heard_while_it_is_printed() -> None:
    heard: list[str] = []
    assert run(["printf", "one\ntwo\n"], say=heard.append) == "one\ntwo\n"
    assert heard == ["one", "two"]


def test_waiting_ends_early_when_there_is_nothing_to_wait_for() -> None:
    assert wait_until(lambda: True, 0)
    assert not wait_until(lambda: False, 60, alive=lambda: False)


def test_a_record_survives_the_disk(tmp_path: Path) -> None:
    holder = Process.of(os.getpid())
    first = Record(holder, ("/g/one", "/g/two"), 26443, 12.5, "/k", "/a")
    for one in (first, first.with_forward(holder)):
        record.save(tmp_path / "record.json", one)
        assert record.load(tmp_path / "record.json") == one
    assert (tmp_path / "record.json").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", json.dumps({"forward": None, "holder": 1})])
def test_a_damaged_record_is_no_record(tmp_path: Path, text: str) -> None:
    (tmp_path / "record.json").write_text(text)
    assert record.load(tmp_path / "record.json") is None


def test_no_record_is_no_record(tmp_path: Path) -> None:
    assert record.load(tmp_path / "absent") is None
