"""Packs: a run as one zip file, which is read as the run is, whoever made it; and what is none is one sentence."""

import hashlib
import io
import json
import re
import shutil
import stat
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import gymnasium
import numpy as np
import pytest

import steadyq
from runs import run_at
from steadyq.cli.main import main
from steadyq.deploy import Policy, export
from steadyq.errors import InputError
from steadyq.results.read import read_runs
from steadyq.store import disk, packed
from steadyq.store.folder import returns
from toy import Point

FILES = {"policy.onnx", "policy.npz", "snapshots/000000000090.safetensors"}


class Drawn(Point):
    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012, as Gymnasium has it

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__()
        self.render_mode = render_mode

    def render(self) -> np.ndarray:
        return np.full((24, 32, 3), 100 + 50 * self.x, np.uint8)


gymnasium.register("DrawnPoint-v0", entry_point=Drawn, max_episode_steps=10)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two seeds, with evaluations at 0, 40, 80 and 90 frames."""
    return run_at(tmp_path_factory.mktemp("run") / "mine", seeds=(3, 4), name="mine").folder


@pytest.fixture(scope="module")
def whole(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pack of it."""
    path = tmp_path_factory.mktemp("pack") / "whole.zip"
    assert main(["pack", str(run), str(path), "--trust"]) == 0
    return path


def contents(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def observations() -> np.ndarray:
    return np.random.default_rng(5).standard_normal((6, 2)).astype(np.float32)


def test_what_is_in_a_pack(run: Path, whole: Path) -> None:
    found = contents(whole)
    both = {f"seed-{seed}/{name}" for seed in (3, 4) for name in FILES}
    assert found.keys() == {"README.md", "run.json", "metrics.csv", "learning_curve.png", "SHA256SUMS"} | both
    for name in ("run.json", "metrics.csv"):
        assert found[name] == (run / name).read_bytes()
    sums = "".join(f"{hashlib.sha256(found[name]).hexdigest()}  {name}\n" for name in found if name != "SHA256SUMS")
    assert found["SHA256SUMS"].decode() == sums
    page = found["README.md"].decode()
    assert page.startswith("# mine on toy:Point-v0\n")
    assert re.findall(r"^\| (\d) \| (\d+) \| (.*?) \| .*e-0\d \| .*e-0\d \|$", page, re.M) == [
        (str(seed), "90", f"{returns(run, seed)[90]:.1f}") for seed in (3, 4)
    ]
    protocol = json.loads(page.partition("```json\n")[2].partition("```")[0])
    assert protocol.items() >= {"utd": "1/4", "frames": 90, "eval_episodes": 2, "action_repeat": 1}.items()
    assert "![Learning curve](learning_curve.png)" in page
    assert "film_strip" not in page  # this environment draws nothing


def test_a_picture_that_cannot_be_drawn_is_told(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pack", str(run), str(tmp_path / "a.zip"), "--seed", "4"]) == 0
    told = capsys.readouterr()
    assert "film_strip.png is left out: toy:Point-v0 draws no pictures of itself" in told.err
    assert "episode 1" not in told.out
    assert {name for name in contents(tmp_path / "a.zip") if "/" in name} == {f"seed-4/{name}" for name in FILES}


def test_a_film_strip_is_in_it(tmp_path: Path) -> None:
    run = run_at(tmp_path / "run", env="DrawnPoint-v0", frames=60, eval_every=30).folder
    assert main(["pack", str(run), str(tmp_path / "a.zip")]) == 0
    found = contents(tmp_path / "a.zip")
    assert found["film_strip.png"].startswith(b"\x89PNG")
    assert "![An episode of seed 0](film_strip.png)" in found["README.md"].decode()
    assert re.search(r"^\| 0 \| 60 \| -?\d+\.\d \|", found["README.md"].decode(), re.M)


def test_a_single_environment_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_at(tmp_path / "run", env="DrawnPoint-v0", frames=60, eval_every=0, single_env=True).folder
    assert main(["pack", str(run), str(tmp_path / "a.zip")]) == 0
    told = capsys.readouterr().err
    assert "film_strip.png is left out: the run has a single environment, which may be a robot" in told
    assert "learning_curve.png is left out: no evaluation" in told
    found = contents(tmp_path / "a.zip")
    assert not {name for name in found if name.endswith(".png")}
    assert "| 0 | 60 | not evaluated |" in found["README.md"].decode()


def test_the_same_run_makes_the_same_bytes(run: Path, whole: Path, tmp_path: Path) -> None:
    assert main(["pack", str(run), str(tmp_path / "again.zip"), "--trust"]) == 0
    assert (tmp_path / "again.zip").read_bytes() == whole.read_bytes()


def test_the_policy_is_the_runs_own_in_each_form(run: Path, whole: Path, tmp_path: Path) -> None:
    shutil.unpack_archive(whole, tmp_path / "folder")
    obs = observations()
    for seed in (3, 4):
        wanted = steadyq.load_policy(run, seed=seed)
        for place in (whole, str(whole), tmp_path / "folder"):
            there = steadyq.load_policy(place, seed=seed)
            np.testing.assert_array_equal(there(obs), wanted(obs))
            rngs = np.random.default_rng(1), np.random.default_rng(1)
            np.testing.assert_array_equal(there.sample(obs, rngs[0]), wanted.sample(obs, rngs[1]))
            assert there.spec == wanted.spec
        for name in ("policy.onnx", "policy.npz"):
            other = Policy.load(tmp_path / f"folder/seed-{seed}" / name)
            np.testing.assert_allclose(other(obs), wanted(obs), rtol=0, atol=1e-5)
    with pytest.raises(InputError, match=r"--seed is 5; this run has 3 4"):
        steadyq.load_policy(whole, seed=5)


def test_one_seed_at_one_evaluation(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    assert main(["pack", str(run), str(path), "--seed", "4", "--checkpoint", "40"]) == 0
    policy, obs = steadyq.load_policy(path), observations()
    assert (policy.spec.trained["seed"], policy.spec.trained["frame"]) == (4, 40)
    np.testing.assert_array_equal(policy(obs), steadyq.load_policy(run, seed=4, checkpoint=40)(obs))
    with pytest.raises(InputError, match=rf"there is no checkpoint in {path}/seed-3/checkpoints$"):
        steadyq.load_policy(path, seed=3)
    with pytest.raises(InputError, match="no snapshot at frame 80; evaluations with one: 40 to 40, 1 in all"):
        steadyq.load_policy(path, seed=4, checkpoint=80)


def test_compare_reads_a_pack_as_it_reads_its_run(
    run: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.unpack_archive(whole, tmp_path / "folder")
    wanted = read_runs([run])
    assert not wanted.complaints
    for place in (whole, tmp_path / "folder"):
        found = read_runs([place])
        assert not found.complaints
        for one, other in zip(found.runs, wanted.runs, strict=True):
            assert one._replace(origin="", env_step=0, value=0) == other._replace(origin="", env_step=0, value=0)
            assert one.origin == str(place)
            np.testing.assert_array_equal(one.value, other.value)
    assert found.more.keys() == wanted.more.keys()
    assert main(["compare", str(whole), "--reps", "100"]) == 0
    assert "mine" in capsys.readouterr().out
    again = read_runs([run, whole])
    assert [words for words in again.complaints if not words.endswith("it counts once")] == []
    text = (tmp_path / "folder/metrics.csv").read_text()
    (tmp_path / "folder/metrics.csv").write_text(text.replace(",80,", ",81,"))
    (words,) = read_runs([tmp_path / "folder"]).complaints
    assert re.search(
        r"metrics\.csv is damaged or was edited: .*SHA256SUMS; its numbers are shown as they are now", words
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["out.tar"], "out.tar cannot be written; give a file ending in .zip"),
        (["folder.zip"], "folder.zip is a folder"),
        (["out.zip", "--seed", "7"], "--seed is 7; this run has 3 4"),
        (["out.zip", "--checkpoint", "41"], "there is no snapshot at frame 41"),
    ],
)
def test_bad_choices_write_nothing(
    arguments: list[str],
    words: str,
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.zip").mkdir()
    assert main(["pack", str(run), *arguments]) == 2
    assert words in capsys.readouterr().err
    assert [path.name for path in tmp_path.rglob("*")] == ["folder.zip"]


def test_a_failure_leaves_the_file_that_was_there(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out.zip"
    path.write_bytes(b"before")
    with monkeypatch.context() as patch:
        patch.setattr(export, "TOLERANCE", -1.0)
        assert main(["pack", str(run), str(path)]) == 2
    mine = Path(shutil.copytree(run, tmp_path / "run"))
    (mine / "metrics.csv").write_text((mine / "metrics.csv").read_text().replace("mine,", "yours,"))
    assert main(["pack", str(mine), str(path)]) == 2

    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(disk, "_put", full)
    assert main(["pack", str(run), str(path)]) == 1
    assert path.read_bytes() == b"before"
    assert {place.name for place in tmp_path.iterdir()} == {"out.zip", "run"}


# Packs that anyone may have made


Entries = list[tuple[zipfile.ZipInfo, bytes]]


def write(path: Path, entries: Entries) -> Path:
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as archive:
        warnings.simplefilter("ignore")  # of a name that is there twice
        for info, data in entries:
            archive.writestr(info, data)
    return path


def entry(name: str, *, mode: int = stat.S_IFREG | 0o644, method: int = zipfile.ZIP_DEFLATED) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr, info.compress_type = mode << 16, method
    return info


def bomb(entries: Entries, path: Path) -> Path:
    """The list says of a small file that it is a large one."""
    write(path, entries)
    data, name = path.read_bytes(), b"seed-3/policy.npz"
    place = data.rindex(name) - 46
    path.write_bytes(data[: place + 24] + (2**31 - 1).to_bytes(4, "little") + data[place + 28 :])
    return path


def overlapping(entries: Entries, path: Path) -> Path:
    """Several names for the same bytes of one large file."""
    more = [(entry(f"seed-{seed}/policy.npz"), b"") for seed in range(10, 60)]
    big = entry("seed-9/policy.npz", method=zipfile.ZIP_STORED)
    with zipfile.ZipFile(path, "w") as archive:
        for info, data in [*entries, (big, bytes(100_000)), *more]:
            archive.writestr(info, data)
        for info in archive.infolist()[-50:]:
            for field in ("header_offset", "compress_size", "file_size", "CRC", "compress_type"):
                setattr(info, field, getattr(big, field))
    return path


def longer_list(path: Path, *, sixty_four: bool) -> Path:
    """The end of the file says that its list is a gigabyte, in its own words or in those of large zip files."""
    data = path.read_bytes()
    end = bytearray(data[-22:])
    if sixty_four:
        return write_bytes(path, data[:-22] + b"PK\6\7" + bytes(16) + bytes(end))
    end[12:16] = (2**30).to_bytes(4, "little")
    return write_bytes(path, data[:-22] + bytes(end))


def write_bytes(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def add(name: str, **how: int) -> Callable[[Entries, Path], Path]:
    return lambda entries, path: write(path, [*entries, (entry(name, **how), b"x" * 99)])


def change(name: str, data: bytes) -> Callable[[Entries, Path], Path]:
    return lambda entries, path: write(
        path, [(info, data if info.filename == name else before) for info, before in entries]
    )


HOSTILE: dict[str, tuple[Callable[[Entries, Path], Path], str]] = {
    "a way out": (add("../out"), "'../out' is no file of a pack"),
    "a way out of a seed": (add("seed-3/../../out"), "is no file of a pack"),
    "from the root": (add("/tmp/out"), "is no file of a pack"),
    "backwards": (add("seed-3\\..\\out"), "is no file of a pack"),
    "a line more": (add("run.json\n"), "is no file of a pack"),
    "code": (add("wandb.py"), "is no file of a pack"),
    "an environment's module": (add("seed-3/sitecustomize.py"), "is no file of a pack"),
    "a checkpoint": (add("seed-3/checkpoints/000000000090.safetensors"), "is no file of a pack"),
    "digits of another script": (add("seed-٣/policy.npz"), "is no file of a pack"),
    "a link": (add("film_strip.png", mode=stat.S_IFLNK | 0o777), "'film_strip.png' is no plain file"),
    "a device": (add("film_strip.png", mode=stat.S_IFCHR | 0o666), "is no plain file"),
    "a method of its own": (add("film_strip.png", method=zipfile.ZIP_LZMA), "is compressed in another way"),
    "a name twice": (add("metrics.csv"), "'metrics.csv' is there twice"),
    "larger than it is": (bomb, "'seed-3/policy.npz' is too large"),
    "larger than it may be": (change("run.json", b" " * (2**22 + 1)), "'run.json' is too large"),
    "one over the other": (overlapping, "its files lie over each other"),
    "too many": (
        lambda _, path: write(path, [(entry(f"{n}"), b"") for n in range(5_001)]),
        "is damaged, or no file of",
    ),
    "a long list": (lambda e, path: longer_list(write(path, e), sixty_four=False), "is damaged, or no file of"),
    "a list of large files": (
        lambda e, path: longer_list(write(path, e), sixty_four=True),
        "is damaged, or no file of",
    ),
    "something behind it": (
        lambda e, p: write_bytes(p, write(p, e).read_bytes() + b"x" * 40),
        "is damaged, or no file",
    ),
    "nothing": (lambda _, path: write_bytes(path, b""), "is damaged, or no file of"),
    "no files": (lambda _, path: write(path, []), "it has no SHA256SUMS"),
    "no record": (lambda e, path: write(path, [one for one in e if one[0].filename != "run.json"]), "has no run.json"),
    "another record": (change("run.json", b"{}"), r"run\.json is damaged or was edited: its SHA-256"),
    "another policy": (change("seed-3/snapshots/000000000090.safetensors", b"x"), "is damaged or was edited"),
    "other digests": (change("SHA256SUMS", b"\xff  run.json\n"), r"run\.json is damaged or was edited"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_pack_is_refused(what: str, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By all that read one, in one sentence that names it; nothing is left anywhere."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with zipfile.ZipFile(whole) as archive:
        entries = [(info, archive.read(info)) for info in archive.infolist()]
    make, words = HOSTILE[what]
    path = make(entries, tmp_path / "pack.zip")
    before = path.read_bytes()
    with pytest.raises(InputError, match=words) as caught:
        steadyq.load_policy(path)
    (complaint,) = read_runs([path]).complaints
    assert complaint == str(caught.value)
    assert str(path) in complaint
    assert "\n" not in complaint
    assert [place.name for place in tmp_path.iterdir()] == ["pack.zip"]
    assert path.read_bytes() == before


def test_a_pack_is_not_unpacked_where_there_is_no_room(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda place: shutil._ntuple_diskusage(10, 10, 0))
    with pytest.raises(InputError, match=r"there is no room to unpack .*whole\.zip in .*; set TMPDIR"):
        steadyq.load_policy(whole)


def test_no_changed_byte_goes_unseen(whole: Path, tmp_path: Path) -> None:
    """The policy is the same or refused, wherever a byte is another one."""
    data, obs, path = whole.read_bytes(), observations(), tmp_path / "pack.zip"
    wanted, refused = steadyq.load_policy(whole)(obs), 0
    for place in range(7, len(data), len(data) // 30):
        path.write_bytes(data[:place] + bytes([data[place] ^ 0x11]) + data[place + 1 :])
        try:
            np.testing.assert_array_equal(steadyq.load_policy(path)(obs), wanted)
        except InputError:
            refused += 1
    assert refused > 3


def test_folders_that_other_programs_add_are_nothing(whole: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(whole) as archive:
        entries = [(info, archive.read(info)) for info in archive.infolist()]
    folders = [(entry(name, mode=stat.S_IFDIR | 0o755), b"") for name in ("seed-3/", "seed-3/snapshots/")]
    path, obs = write(tmp_path / "zipped.zip", [*folders, *entries]), observations()
    np.testing.assert_array_equal(steadyq.load_policy(path)(obs), steadyq.load_policy(whole)(obs))


def test_what_could_not_be_opened_is_not_packed() -> None:
    with pytest.raises(InputError, match=r"run\.json has 4,194,305 bytes, and a pack takes 4,194,304"):
        packed.to_zip({"run.json": bytes(2**22 + 1)})
    with pytest.raises(InputError, match=r"all seeds together are more than .* give one --seed"):
        packed.to_zip({f"seed-{seed}/policy.npz": b"" for seed in range(5_001)})
    with zipfile.ZipFile(io.BytesIO(packed.to_zip({"README.md": b"a"}))) as archive:
        assert archive.testzip() is None
