"""Settings: what a run is asked to do is checked and completed before anything starts."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from steadyq.algorithm.options import make_recipe, options
from steadyq.algorithm.recipes import RECIPES
from steadyq.cli.main import main
from steadyq.errors import InputError
from steadyq.run.choices import settings_of
from steadyq.run.conditions import MACHINE
from steadyq.run.resume import FREE
from steadyq.run.stop import Stop
from steadyq.settings import SETTINGS, Settings, check, complete, discounted, flag, from_json
from steadyq.store.record import FORMAT, Record, record_from_json, record_json
from steadyq.store.sealed import json_digest


def completed(**choices: object) -> Settings:
    return settings_of("crossq_wn", env="walker-run", choices=choices)


def test_the_protocol_decides_what_is_left_out() -> None:
    settings = completed()
    assert (settings.utd, settings.action_repeat, settings.batch_size) == (Fraction(2), 2, 256)
    assert (settings.gamma, settings.learning_starts, settings.buffer_size) == (0.99, 5_000, 1_000_000)
    assert settings.agent_steps == 500_000
    elsewhere = complete(
        Settings(recipe="sac", env="Pendulum-v1"),
        make_recipe("sac").protocol,
        {},
        repeats=False,
    )
    assert elsewhere.action_repeat == 1


@pytest.mark.parametrize(
    ("frames", "repeat", "wanted"),
    [
        (1_000, 2, 0.99),  # 500 steps
        (1_000, 1, 0.995),
        (1_000, 20, 0.95),  # 50 steps: 0.9 is too short-sighted
        (200, 1, 0.975),
        (None, 1, 0.995),
    ],
)
def test_a_discount_by_the_length_of_an_episode(frames: int | None, repeat: int, wanted: float) -> None:
    settings = settings_of("simba", env="walker-run", choices={"action_repeat": repeat, "frames": 1_000})
    assert settings.gamma is None  # until there is an environment
    assert discounted(settings, frames).gamma == pytest.approx(wanted)
    assert "gamma" not in settings.name
    chosen = settings_of("simba", env="walker-run", choices={"gamma": 0.9})
    assert discounted(chosen, frames).gamma == 0.9


def test_every_option_of_the_recipe_is_recorded() -> None:
    assert completed(lr=1e-3).options == {key: o.default for key, o in options("crossq_wn").items()} | {"lr": 1e-3}


def test_the_name_says_what_differs_from_the_defaults() -> None:
    assert completed().name == "crossq_wn-utd2"
    assert completed(utd=10, width=512, frames=50_000).name == "crossq_wn-utd10"
    assert (
        completed(utd="1/3", lr=1e-3, target="none", gamma=0.9).name
        == "crossq_wn-utd1over3-gamma=0.9-lr=0.001-target=none"
    )
    assert completed(seeds=[0, 2]).folder.as_posix() == "runs/walker-run/crossq_wn-utd2/seeds-0-2"


def test_fractional_utd_is_exact() -> None:
    assert completed(utd=0.1).utd == Fraction(1, 10)


def test_settings_survive_json() -> None:
    settings = completed(utd="1/3", seeds=[3, 1], width=64)
    assert from_json(settings.to_json(), out="somewhere") == Settings(**{**vars(settings), "out": "somewhere"})
    with pytest.raises(InputError, match="colour"):
        from_json(settings.to_json() | {"colour": "red"}, out="somewhere")


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ({"utd": 0}, "--utd is 0; give a number above 0"),
        ({"utd": "two"}, "--utd is two"),
        ({"utd": "0.333333333333333333333"}, "--utd is 0.333333333333333333333; give a number such as 2, 0.5 or 1/3"),
        ({"seeds": range(101)}, "the 101 seeds would make the run's folder a longer name than can be; give --out"),
        ({"gamma": 1.5}, "--gamma is 1.5"),
        ({"frames": 0}, "--frames is 0"),
        ({"frames": 50_001}, "multiple of the action repeat, 2"),
        ({"seeds": []}, "--seeds is empty"),
        ({"seeds": [1, 1]}, "distinct"),
        ({"seeds": [-1]}, "from 0 up"),
        ({"batch_size": 256, "learning_starts": 100}, "--batch-size is 256; give at most --learning-starts, 100"),
        ({"buffer_size": 100}, "at most --buffer-size, 100"),
        ({"threads": 0}, "--threads is 0"),
        ({"threads": 5_000}, "--threads is 5000; give a whole number from 1 to 4096"),
        ({"keep": True}, "--keep is True; give a whole number of at least 1"),
        ({"eval_episodes": 2.5}, "--eval-episodes is 2.5; give a whole number of at least 1"),
        ({"frames": "1e999999999"}, "--frames is 1e999999999; give a whole number of at least 1"),
        ({"frames": "many"}, "--frames is many; give a whole number"),
        ({"action_repeat": "two"}, "--action-repeat is two; give a whole number"),
        ({"gamma": "nan"}, r"--gamma is nan; give a number in \[0, 1\]"),
        ({"lr": "fast"}, "lr is 'fast', of type str; give one of type float"),
        ({"seeds": 3}, r"--seeds is 3; give a list: \[3\] is seed 3 alone, range\(3\) is seeds 0, 1 and 2"),
        ({"seeds": "0 1"}, "--seeds is 0 1; give a list"),
        ({"seeds": [True]}, "--seeds is True; give distinct whole numbers"),
        ({"env_timeout": float("inf")}, "--env-timeout is inf; give a number from 0 to 1,000,000"),
        ({"save_every": "0min"}, "--save-every is 0min; give frames, a whole number of at least 1, or minutes"),
        ({"save_every": 0}, "--save-every is 0; give frames"),
        ({"eval_every": -1}, "--eval-every is -1"),
        ({"diagnose_every": -1}, "--diagnose-every is -1"),
        ({"precision": "float16"}, "unknown value of --precision 'float16'"),
        ({"name": "a/b"}, "without slashes"),
        ({"name": "ü" * 150}, "--name has 300 bytes; give one of at most 255"),
        ({"utd": 10**300}, "--utd is 1000.*; give a number such as 2, 0.5 or 1/3"),
        ({"utd": "1e-999999999"}, "--utd is 1e-999999999; give a number such as"),
        ({"utd": 10_001}, "--utd is 10001; give a number above 0, at most 10,000"),
        ({"env_timeout": 1e300}, "--env-timeout is 1e.300; give a number from 0 to 1,000,000"),
        ({"frames": 2 * 10**15}, "--frames is 2000000000000000; give a whole number of at least 1, and at most 1e.15"),
        (
            {"eval_episodes": 10**9},
            "--eval-episodes is 1000000000; give a whole number of at least 1, and at most 100000",
        ),
        ({"seeds": range(10**12)}, "--seeds has more than 1,000 numbers; give the others in another run"),
        ({"name": "a\x1b[2J"}, r"--name is 'a\\x1b\[2J'; give a name without .* control characters"),
        ({"name": "a\u202eb"}, "give a name without .* control characters"),
        ({"tau": 0.0}, r"tau is 0.0; give a number in \(0, 1\]"),
        ({"colour": "red"}, "unknown option 'colour'"),
    ],
)
def test_what_cannot_work_is_refused(choices: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        completed(**choices)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({"frames": "1000"}, 1_000),
        ({"frames": 1e6}, 1_000_000),
        ({"frames": "1e6"}, 1_000_000),
        ({"frames": "200k"}, 200_000),
        ({"frames": "1.5M"}, 1_500_000),
        ({"frames": np.int64(1_000)}, 1_000),
        ({"buffer_size": "100_000"}, 100_000),
        ({"gamma": "0.9"}, 0.9),
        ({"gamma": np.float32(0.5)}, 0.5),
        ({"env_timeout": 1}, 1.0),
        ({"save_every": "10k"}, 10_000),
        ({"save_every": "15min"}, "15min"),
        ({"seeds": np.arange(2)}, (0, 1)),
        ({"lr": "3e-3"}, 3e-3),
        ({"width": 64.0}, 64),
    ],
)
def test_numbers_may_be_text_or_of_another_type(given: dict[str, Any], kept: object) -> None:
    (key,) = given
    settings = completed(**given)
    found = settings.options[key] if key in settings.options else getattr(settings, key)
    assert (found, type(found)) == (kept, type(kept))


def test_a_limit_that_is_no_number_is_refused() -> None:
    soon: Any = "soon"
    with pytest.raises(InputError, match="max_minutes is soon; give a number such as 55"):
        Stop(max_minutes=soon)


def test_none_stands_only_for_what_is_completed() -> None:
    assert completed(threads=None, name=None).threads is None
    for key in ("frames", "env_timeout", "on_bad_step"):
        with pytest.raises(InputError, match=flag(key)):
            check(replace(completed(), **{key: None}))


def test_every_setting_has_words_and_knows_its_values() -> None:
    for name, setting in SETTINGS.items():
        assert setting.help, name
        assert setting.range or setting.choices or name in ("seeds", "name", "out"), f"{name}: which values make sense?"
        assert not setting.choices or setting.default == setting.choices[0], name


def test_what_a_resumed_run_may_change_is_a_fact_of_the_setting(capsys: pytest.CaptureFixture[str]) -> None:
    """From which `steadyq resume` has its options."""
    with pytest.raises(SystemExit, match="0"):
        main(["resume", "--help"])
    help = capsys.readouterr().out
    assert {name for name in SETTINGS if f"  {flag(name)} " in help} == {*FREE, *MACHINE}
    assert set(FREE) >= {"frames", "save_every", "keep"}
    assert MACHINE.items() >= {"precision": "precision", "compile": "compiled"}.items()
    assert not {*FREE, *MACHINE} & {"utd", "seeds", "batch_size", "gamma"}


def record(**changes: object) -> dict[str, Any]:
    """What a run.json holds, with some of it changed and sealed again."""
    how = {"precision": "float32", "device": "cpu", "products": "mkl", "compiled": True, "reproducible": True}
    how |= {"commit": None, "versions": {}, "machine": {}, "from_frame": 0}
    whole = Record(completed(), 24, 6, [["all", 24]], [-1.0] * 6, [1.0] * 6, 0.05, [{**how, "threads": 1}], {})
    content = {**record_json(whole), **changes}
    del content["sha256"]
    return {**content, "sha256": json_digest(content)}


def read(content: Any) -> Record:
    return record_from_json(content, source=Path("run/run.json"), out=Path("run"))


def test_a_record_survives_json() -> None:
    content = record()
    assert record_json(read(content)) == content


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (record(format=FORMAT + 1), f"run/run.json has another format than {FORMAT}; use the version"),
        ({**record(), "format": FORMAT - 1}, f"run/run.json has another format than {FORMAT}; use the version"),
        ({key: value for key, value in record().items() if key != "sha256"}, "damaged or was edited"),
        ({**record(), "obs_dim": 25}, "damaged or was edited"),
        (record(settings={k: v for k, v in completed().to_json().items() if k != "keep"}), "other settings .*: keep"),
        (record(settings={**completed().to_json(), "frames": 2.0}), "--frames is 2.0"),
        (record(observations=[["all", 23]]), "is not what steadyq writes"),
        (record(action_low=[-1.0] * 5), "is not what steadyq writes"),
        (record(action_low=[-1] * 6), "is not what steadyq writes"),
        (record(action_high=[*[1.0] * 5, -2.0]), "is not what steadyq writes"),
        (record(action_high=[*[1.0] * 5, float("inf")]), "is not what steadyq writes"),
        (record(step_seconds=0.0), "is not what steadyq writes"),
        (record(stretches=[]), "is not what steadyq writes"),
        (record(stretches=[{**record()["stretches"][0], "reproducible": 1}]), "is not what steadyq writes"),
        (record(stretches=[{**record()["stretches"][0], "from_frame": "0"}]), "is not what steadyq writes"),
        (record(stretches=[{k: v for k, v in record()["stretches"][0].items() if k != "reproducible"}]), "not what"),
    ],
)
def test_another_record_is_refused(content: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        read(content)


def test_no_setting_shares_a_name_with_a_recipe_option() -> None:
    for name in RECIPES:
        assert not options(name).keys() & Settings.__dataclass_fields__.keys()


def test_check_passes_what_complete_made() -> None:
    check(completed())
