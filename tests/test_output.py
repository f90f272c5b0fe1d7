"""Files a command is asked for: what cannot be written is refused at once, and nothing is made by asking."""

import os
from pathlib import Path
from typing import Any

import pytest

from steadyq import output
from steadyq.cli.main import main
from steadyq.errors import InputError
from steadyq.examine import show
from steadyq.results import read


def test_what_can_be_written_passes_and_nothing_is_made(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("as it was")
    for path in (tmp_path / "there", tmp_path / "new", tmp_path / "new/folder/file"):
        output.check(path)
    assert (tmp_path / "there").read_text() == "as it was"
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_a_name_without_a_folder_is_in_the_current_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    output.check(Path("report.html"))


def test_what_may_not_be_changed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)  # who is root may change everything
    with pytest.raises(InputError, match=f"cannot write .*new/x: {tmp_path} may not be changed"):
        output.check(tmp_path / "new/x")


def test_where_one_may_not_look_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stat = os.stat

    def closed(path: Any, *arguments: Any, **more: Any) -> os.stat_result:
        if tmp_path in Path(path).parents:
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, *arguments, **more)

    monkeypatch.setattr(os, "stat", closed)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(InputError, match=f"{tmp_path} may not be changed"):
        output.check(tmp_path / "x")


@pytest.mark.parametrize("command", ["compare --json", "compare --csv", "report --out", "figures 3 --out"])
def test_every_command_refuses_before_it_reads(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def refuse(*arguments: Any, **more: Any) -> None:
        raise AssertionError("runs were read")

    monkeypatch.setattr(read, "read_study", refuse)
    blocked = tmp_path / "blocked"
    blocked.write_text("a file")
    name, *numbers, option = command.split()
    assert main([name, *numbers, "somewhere", option, str(blocked / "inside")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert f"{blocked} is not a folder; give another place" in err
    if name != "figures":  # which has a folder as its output
        assert main([name, *numbers, "somewhere", option, str(tmp_path)]) == 2
        assert capsys.readouterr().err == f"steadyq: {tmp_path} is a folder; give the name of a file to write\n"


@pytest.mark.parametrize(("option", "ending"), [("--video", ".mp4"), ("--film-strip", ".png")])
def test_a_picture_is_refused_before_the_policy_plays(
    option: str, ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def read(*arguments: Any, **more: Any) -> None:
        raise AssertionError("the run was read")

    monkeypatch.setattr(show, "read_record", read)
    blocked = tmp_path / "blocked"
    blocked.write_text("a file")
    for path, reason in [
        (blocked / f"inside{ending}", f"{blocked} is not a folder; give another place"),
        (tmp_path / "picture.gif", f"give a file ending in {ending}"),
    ]:
        assert main(["evaluate", str(tmp_path), option, str(path)]) == 2
        assert reason in capsys.readouterr().err
