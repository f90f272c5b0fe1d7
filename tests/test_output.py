"""Files a command is asked for: what cannot be written is refused at once, and nothing is made by asking."""

import io
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import gymnasium
import pytest
from rich.console import Console

from steadyq import output
from steadyq.cli.main import main
from steadyq.errors import InputError
from steadyq.examine import evaluate
from steadyq.results import read
from steadyq.run import views
from steadyq.store import disk, metrics_csv


def test_what_can_be_written_passes_and_nothing_is_made(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("as it was")
    for path in (tmp_path / "there", tmp_path / "new", tmp_path / "new/folder/file"):
        output.check(path)
    assert (tmp_path / "there").read_text() == "as it was"
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["compare", "{runs}", "--reps", "100", "--json", "{out}"], "found.json"),
        (["compare", "{runs}", "--reps", "100", "--csv", "{out}"], "found.csv"),
        (["report", "{runs}", "--out", "{out}"], "report.html"),
        (["figures", "1", "{runs}", "--out", "{folder}"], "figure-1.png"),
    ],
)
def test_a_file_is_written_whole_or_stays_as_it_was(
    words: list[str], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = (f"a,dog-run,{seed},eval/mean_reward,{frame},{seed}\n" for seed in range(3) for frame in (0, 9))
    (tmp_path / "runs.csv").write_text(metrics_csv.HEADER + "".join(rows))
    (tmp_path / name).write_text("as it was")
    real = disk.do

    def full(operation: Any, *given: Any) -> Any:
        if getattr(operation, "__name__", "") == "write":
            real(operation, given[0][:10])
            raise OSError(28, "No space left on device")
        return real(operation, *given)

    monkeypatch.setattr(disk, "do", full)
    places = {"runs": tmp_path / "runs.csv", "out": tmp_path / name, "folder": tmp_path}
    assert main([word.format(**places) for word in words]) == 1
    assert (tmp_path / name).read_text() == "as it was"
    assert not list(tmp_path.glob(".tmp-*"))


def test_a_link_is_followed_and_a_pipe_gets_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "aim")
    disk.give(tmp_path / "link", b"a page")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "aim").read_bytes() == b"a page"
    read, write = os.pipe()
    disk.give(Path(f"/dev/fd/{write}"), b"a page")
    assert os.read(read, 99) == b"a page"
    os.close(read)
    os.close(write)


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

    monkeypatch.setattr(evaluate, "read_record", read)
    blocked = tmp_path / "blocked"
    blocked.write_text("a file")
    for path, reason in [
        (blocked / f"inside{ending}", f"{blocked} is not a folder; give another place"),
        (tmp_path / "picture.gif", f"give a file ending in {ending}"),
    ]:
        assert main(["evaluate", str(tmp_path), option, str(path)]) == 2
        assert reason in capsys.readouterr().err


HOSTILE = "a\x1b]0;title\x07\x1b[2J\r\n\x9b31m\u202eb\u2066\u200b\udc80\x7f"
"""A title, a cleared screen, lines of one's own, C1, marks that turn what is read, what cannot be encoded."""

HARMLESS = r"a\x1b]0;title\x07\x1b[2J\r\n\x9b31m\u202eb\u2066\u200b\udc80\x7f"


def test_what_a_terminal_would_obey_is_shown() -> None:
    assert output.safe(HOSTILE) == HARMLESS
    words = "crossq_wn-utd1over2, größe=1 ▁▂▃ 日本語 [bold]:smile:"
    assert output.safe(words) == words


def test_complaints_are_safe(capsys: pytest.CaptureFixture) -> None:
    for arguments in (["evaluate", f"no-{HOSTILE}"], [HOSTILE], ["train", "crossq_wn", "--env", HOSTILE]):
        assert main(arguments) == 2
        assert HARMLESS in capsys.readouterr().err.replace("\\\\", "\\").replace("\n", "")


def test_names_in_tables_are_safe(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    name = HOSTILE.replace("\r\n", "").replace("\udc80", "")
    rows = (
        f"{name}{method},t-{name},{seed},eval/mean_reward,{frame},{seed + frame}\n"
        for method in "xy"
        for seed in (0, 1)
        for frame in (0, 9)
    )
    path = tmp_path / "runs.csv"
    path.write_text("exp_name,env_name,seed,metric,env_step,value\n" + "".join(rows))
    assert main(["compare", str(path), str(tmp_path / f"no-{name}")]) == 0
    out = capsys.readouterr().out
    assert r"\x1b[2J" in out.replace("\n", "")
    assert all(character.isprintable() for character in out.replace("\n", ""))


@pytest.mark.parametrize("terminal", [True, False])
def test_the_view_of_a_run_is_safe(terminal: bool) -> None:
    stream = io.StringIO()
    board = views.Board(exp_name=HOSTILE, env_name=HOSTILE, seeds=[0], frames=10)
    live = Console(file=stream, force_terminal=True, color_system=None, width=400)
    view = views.LiveView(board, live) if terminal else views.PlainView(board, stream)
    view.message(HOSTILE)
    view.close()
    assert not view.silent
    assert stream.getvalue().count(HARMLESS) >= 1
    assert not [hidden for hidden in ("\x07", "\x9b", "\u202e", "\x1b]", "\x1b[2J") if hidden in stream.getvalue()]


def test_a_run_whose_output_is_closed_has_a_view(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)  # of a daemon, or after `>&-`
    view = views.choose_view(views.Board(exp_name="x", env_name="y", seeds=[0], frames=10))
    view.message("nobody reads this")
    assert not view.silent
    sys.stdout.close()


def test_a_warning_is_one_line_and_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(warnings, "showwarning", output.show_warning)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        for _ in range(2):
            yellow = gymnasium.utils.colorize("WARN: HalfCheetah-v4 is out\nof date", "yellow")
            warnings.warn_explicit(yellow, DeprecationWarning, gymnasium.__file__, 1)
        warnings.warn_explicit("divided by zero", RuntimeWarning, str(tmp_path / "robot.py"), 7)
    assert capsys.readouterr().err.splitlines() == [
        "warning: HalfCheetah-v4 is out of date (gymnasium)",
        f"warning: divided by zero ({tmp_path / 'robot.py'}:7)",
    ]


def test_counts_in_words() -> None:
    assert [output.plural(n, "run") for n in (0, 1, 2, 1000)] == ["0 runs", "1 run", "2 runs", "1,000 runs"]
