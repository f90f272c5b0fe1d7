"""The command line: one clear sentence for a mistake, the agreed exit codes, help without PyTorch."""

import os
import pydoc
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import steadyq
import steadyq.run.resume
import steadyq.run.train
from steadyq.algorithm.recipes import RECIPES
from steadyq.cli.main import COMMANDS, main
from steadyq.cli.train import progress
from steadyq.errors import InputError


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("trian", "unknown command 'trian'; did you mean 'train'?"),
        ("train crosq --env walker-run", "unknown recipe 'crosq'; did you mean 'crossq'"),
        ("train crossq_wn --env wlker-run", "did you mean 'walker-run'"),
        ("train crossq_wn --env walker-run --widht 3", "unknown option '--widht'; did you mean '--width'"),
        ("train sac --env walker-run --learning-rate 1", "did you mean '--lr' or '--learning-starts'?"),
        ("train sac --env walker-run --project none", "'--project' of sac; recipes that have it: crossq_wn\n"),
        ("train sac --env walker-run --no-project-readout", "'--no-project-readout' of sac; recipes that have it"),
        ("train sac --env walker-run --quux=1", "unknown option '--quux'; `steadyq train sac --help` shows all"),
        ("train crossq_wn", "required: --env"),
        ("train --env walker-run crossq_wn --width 3", "the recipe comes first, before --env: steadyq train RECIPE"),
        ("train crossq_wn --env walker-run --utd 0", "--utd is 0; give a number above 0"),
        ("train crossq_wn --env walker-run --target slow", "unknown value of target 'slow'"),
        ("train crossq_wn --env walker-run --lr fast", "lr is 'fast', of type str; give one of type float"),
        ("train crossq_wn --env walker-run --frames 200kk", "--frames is 200kk; give a whole number of at least 1"),
        ("resume nowhere", "nowhere is not a run folder"),
        ("evaluate nowhere", "nowhere is not a run folder"),
        ("compare --at 2.5", "argument --at: '2.5' is not a frame, such as 20000, 1e6 or 200k"),
        ("diagnose nowhere --frames 20k 1e4", "nowhere is not a run folder"),
        ("diagnose nowhere --frames -1", "argument --frames: '-1' is not a frame"),
        ("list colours", "invalid choice: 'colours'"),
    ],
)
def test_a_mistake_is_answered_in_one_line(arguments: str, words: str, capsys: pytest.CaptureFixture) -> None:
    assert main(arguments.split()) == 2
    out, err = capsys.readouterr()
    assert words in err
    assert err.count("\n") == 1
    assert out == ""


HELP = """
import sys
from steadyq.cli.main import main
try:
    main(["--help"])
finally:
    assert not {"torch", "numpy", "rich", "psutil"} & sys.modules.keys()
"""


def test_help_lists_the_commands_and_needs_no_torch() -> None:
    done = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name in ("train", "resume", "evaluate", "diagnose", "compare", "figures", "report", "watch", "list", "doctor"):
        assert f"\n  {name:10}{COMMANDS[name].help}\n" in done.stdout


@pytest.mark.parametrize("command", ["train crossq_wn --env walker-run", "resume runs", "check-env Pendulum-v1"])
def test_the_first_words_come_before_pytorch_does(command: str, tmp_path: Path) -> None:
    """Which takes seconds to import: here it never comes."""
    (tmp_path / "torch.py").write_text("import os, sys; sys.stdout.flush(); os._exit(42)")
    path = {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(Path(steadyq.__file__).parents[1])])}
    program = [sys.executable, "-m", "steadyq", *command.split()]
    done = subprocess.run(program, capture_output=True, text=True, check=False, cwd=tmp_path, env=os.environ | path)
    assert (done.returncode, done.stderr) == (42, "loading PyTorch\n")


@pytest.mark.parametrize(
    ("command", "waits_for"),
    [("train sac --env walker-run", "steadyq.run.train.train"), ("resume runs", "steadyq.run.resume.resume")],
)
def test_what_is_waited_for_after_pytorch_is_told_too(
    command: str, waits_for: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def wait(*_: object, **__: object) -> None:
        raise InputError(capsys.readouterr().err)

    monkeypatch.setattr(waits_for, wait)
    monkeypatch.delitem(sys.modules, "torch")  # as in a new process, where it is not there when the command begins
    assert main(command.split()) == 2
    told = "loading PyTorch\\nmaking the environment, and looking at what this machine can do\\n"
    assert capsys.readouterr().err == f"steadyq: {told}\n"


def test_python_lists_what_there_is() -> None:
    assert dir(steadyq) == sorted(steadyq.__all__)
    assert steadyq.__version__ == version("steadyq")
    assert all(getattr(steadyq, name) for name in dir(steadyq))
    help = pydoc.render_doc(steadyq.train, renderer=pydoc.plaintext)
    for words in ("frames: int = 1000000", "seeds: tuple[int, ...] = (0,)", "length of the run", "on_log: "):
        assert words in help
    for name in RECIPES:
        assert f"    {name}: width: int = " in help
    assert "keep: int | None = None" in pydoc.render_doc(steadyq.resume)
    with pytest.raises(AttributeError, match="has no attribute 'simulate'"):
        steadyq.simulate  # noqa: B018


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_its_help(name: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([name, "--help"])
    out = " ".join(capsys.readouterr().out.split())
    assert out.startswith(f"usage: steadyq {name}")
    assert COMMANDS[name].help in out


def test_a_recipes_help_shows_its_options(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["train", "crossq_wn", "--help"])
    out = capsys.readouterr().out
    assert "--target polyak|none" in out
    assert "[0.0003]" in out
    assert "transitions per update [256]" in out
    assert "[the recipe's" not in out


def test_a_command_without_streams_does_its_work() -> None:
    """As `>&-` starts it: Python has None for a stream, and the next file that is opened takes its number."""
    command = f"{shlex.quote(sys.executable)} -m steadyq"
    done = subprocess.run(["sh", "-c", f"{command} --version >&-"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    done = subprocess.run(["sh", "-c", f"{command} trian <&- >&- 2>&-"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")


def test_the_last_line_of_a_seed() -> None:
    assert progress({0: 1.0, 50: 9.0, 100: 3.0}, episodes=5) == (
        "return 1.0 at frame 0, 3.0 at frame 100, best 9.0 (means of 5 episodes)"
    )
    assert progress({0: 1.0}, episodes=1) == "return 1.0 at frame 0 (one episode)"
