"""The report: what its tables and sentences say, that names stay text, and the page in a real browser."""

import contextlib
import json
import os
import re
import shutil
import socket
import struct
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from steadyq.cli.main import main
from steadyq.errors import InputError
from steadyq.report import details, page, serve, verdicts
from steadyq.results.compare import Comparison, Pair
from steadyq.results.read import read_study
from steadyq.results.runs import Run, Study
from steadyq.results.statistics import Interval

HEADER = "exp_name,env_name,seed,metric,env_step,value\n"
NASTY = "</script><img src=x onerror=alert(1)>&amp;<b>-%{x}"
NORM = "train/critic_weight_norm"


def rows(method: str, task: str, seed: int, end: float, *, last: int = 50_000) -> str:
    """A run that grows linearly, with a norm and the clock."""
    found = []
    for frame in range(0, last + 1, 10_000):
        for metric, value in (
            ("eval/mean_reward", end * frame / 50_000),
            (NORM, 40 + seed + frame / 1000),
            ("time/time_elapsed", frame / 10),
            ("time/updates_per_second", 0 if frame == 0 else 80),
        ):
            found.append(f"{method},{task},{seed},{metric},{frame},{value}\n")
    return "".join(found)


def table(path: Path, *, nasty: bool = False, count: int = 5) -> Path:
    text = HEADER
    for task in ("dog-run", "walker-run"):
        for seed in range(count):
            text += rows("crossq_wn-utd2", task, seed, 600 + 10 * seed)
            text += rows(NASTY if nasty else "sac-utd1", task, seed, 100 + 10 * seed)
    path.write_text(text)
    return path


def numbers(html: str) -> dict[str, Any]:
    """What the page's script is given."""
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    return json.loads(text)


def words(html: str) -> str:
    """What a reader sees without the script."""
    body = html[html.index("<body>") : html.index('<script type="application/json"')]
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", body)).split())


# ---- sentences


def pair(verdict: str, low: float, high: float, *, runs: int = 3) -> Pair:
    return Pair("sac-utd1", "mine", ("dog-run",), Interval((low + high) / 2, low, high, 0.95, runs, 1, "81%"), verdict)


def phrased(*pairs: Pair, published: tuple[str, ...] = ()) -> verdicts.Sentences:
    empty: dict[str, Any] = {name: [] for name in ("returns", "aggregates", "areas", "reached", "references", "notes")}
    how: dict[str, Any] = {"metric": "m", "frames": (1,), "level": 0.95, "resamples": 1, "seed": 0, "area_starts": {}}
    how |= {"over": "seeds", "paired": []}
    return verdicts.phrase(Comparison(**how, **empty, complaints=[], pairs=list(pairs)), published=published)


def test_the_reading_claims_what_the_verdicts_do() -> None:
    found = phrased(
        pair("supported", 0.6, 1.0),
        pair("contradicted", 0.1, 0.3),
        pair("not decidable at this budget", 0.4, 0.9),
        pair("not decidable at this budget", float("nan"), float("nan"), runs=1),
    )
    better, worse = found.supported
    assert better.startswith("sac, UTD 1 is better than mine on dog-run")
    assert "probability 0.80 (95% interval 0.60 to 1.00; real coverage with 3 runs per task: about 81%)" in better
    assert worse.startswith("mine is better than sac, UTD 1 on dog-run")
    assert "probability 0.80 (95% interval 0.70 to 0.90" in worse
    assert "holds one half" in found.undecided[0]
    assert "nothing about other seeds follows" in found.undecided[1]
    assert found.cautions[0].startswith(
        "3 comparisons are made here; 1 more have one run only and decide nothing. If all methods were equal, "
        "about 0.6 of them"
    )
    assert "nothing is compared" in phrased().cautions[0]


def test_comparisons_with_published_runs_stand_apart() -> None:
    empty = phrased(pair("supported", 0.6, 1.0))
    assert (len(empty.supported), empty.with_published) == (1, [])
    apart = phrased(pair("supported", 0.6, 1.0), pair("not decidable at this budget", 0.4, 0.9), published=("mine",))
    assert (apart.supported, apart.undecided, len(apart.with_published)) == ([], [], 2)


# ---- the page


@pytest.mark.parametrize("shared", [True, False])
def test_tasks_together_are_drawn_if_a_method_has_them_all(tmp_path: Path, *, shared: bool) -> None:
    path = tmp_path / "runs.csv"
    tasks = {"a": ["dog-run"], "b": ["dog-run"], "c": ["walker-run", "dog-run"] if shared else ["walker-run"]}
    path.write_text(HEADER + "".join(rows(name, task, 0, 100) for name, which in tasks.items() for task in which))
    panels = {panel["title"]: panel for panel in numbers(page.render(read_study([path])))["returns"]}
    assert list(panels) == ["dog-run", "walker-run", *(["all 2 tasks"] if shared else [])]
    if shared:
        assert panels["all 2 tasks"]["notes"] == ["not on all of these tasks: a; b"]


def test_the_clock_is_read_at_the_frame_of_the_table(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    short = rows("sac-utd10", "dog-run", 0, 100, last=20_000)
    path.write_text(HEADER + short + rows("sac-utd1", "dog-run", 0, 100).replace("80\n", "40\n", 2))
    said = words(page.render(read_study([path])))
    assert said.count("33 min") == 2  # both after 2,000 seconds, where the longer run was not at its end
    assert "33 min 40" in said  # and as fast as it was by then


def test_tables_sentences_and_curves(tmp_path: Path) -> None:
    html = page.render(read_study([table(tmp_path / "runs.csv")]))
    said = words(html)
    row = re.search(r"dog-run crossq_wn, UTD 2 5 620\.0 ([\d.]+) to ([\d.]+) 90% ([\d.]+) to ([\d.]+) 310\.0 ", said)
    assert row is not None
    low, high, p05, p95 = map(float, row.groups())
    assert 600 <= low < 620 < high <= 640
    assert (p05, p95) == (602, 638)
    assert "50,000 (5 of 5)" in said  # frames to 500: 620 * 4 / 5 is below
    assert "1 h 23 min 80" in said  # 5,000 seconds, 80 updates per second
    assert "crossq_wn, UTD 2 is better than sac, UTD 1 on dog-run, walker-run" in said
    assert "Too few seeds" not in said
    data = numbers(html)
    assert [panel["title"] for panel in data["returns"]] == ["dog-run", "walker-run", "all 2 tasks"]
    line = data["returns"][0]["lines"][0]
    assert data["frames"][line["x"]] == [0, 10_000, 20_000, 30_000, 40_000, 50_000]
    assert line["y"][-1] == 620
    assert line["low"][-1] <= 620 <= line["high"][-1]
    assert len(data["returns"][0]["seeds"]) == 10
    assert data["returns"][2]["seeds"] == []
    assert {row["name"] for row in data["returns"][0]["references"]} >= {"BRO-utd10@naumix", "SAC@SonyResearch"}
    assert [row["name"] for row in data["references"] if row["shown"]] == ["BRO-utd10@naumix", "SAC@SonyResearch"]
    assert [(panel["task"], panel["about"]) for panel in data["diagnostics"]] == [
        ("dog-run", NORM),
        ("walker-run", NORM),
    ]
    assert data["diagnostics"][0]["lines"][0]["y"][-1] == 92  # 40 + the middle seed + 50


def test_the_page_is_whole_and_asks_for_nothing(tmp_path: Path) -> None:
    html = page.render(read_study([table(tmp_path / "runs.csv")]))
    outside = re.sub(r"<script>.*?</script>", "", html, flags=re.DOTALL)
    assert not re.findall(r'(?:src|href)="(?!#|data:)[^"]*', outside)
    assert "default-src 'none'" in html
    assert len(html.encode()) < 8e6


def test_names_stay_text(tmp_path: Path) -> None:
    html = page.render(read_study([table(tmp_path / "runs.csv", nasty=True)]))
    assert "<img src=x" not in html
    assert NASTY in words(html)
    assert NASTY in [method["name"] for method in numbers(html)["methods"]]


def test_curves_are_thinned_to_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = np.arange(0, 500_000, 1000)
    study = Study([Run("a", "dog-run", str(s), frames, frames / 1000.0, "here") for s in range(3)], [])
    data = numbers(page.render(study))
    assert data["points"] == page.MOST_POINTS
    assert [seed["x"] for seed in data["returns"][0]["seeds"]] == [0, 0, 0]  # equal frames are there once
    assert len(data["returns"][0]["seeds"][0]["y"]) == len(data["frames"][0]) == page.MOST_POINTS
    assert data["frames"][0][0] == 0
    assert data["frames"][0][-1] == 499_000
    monkeypatch.setattr(page, "CURVES_BYTES", 600)
    assert numbers(page.render(study))["points"] == page.FEWEST_POINTS


# ---- what can be wrong with runs


def folder(path: Path, *, text: str, settings: dict[str, Any] | None = None) -> Path:
    path.mkdir(parents=True)
    (path / "metrics.csv").write_text(HEADER + text)
    if settings is not None:
        content = {
            "settings": settings,
            "stretches": [{"from_frame": 0, "commit": "abc123", "versions": {"torch": "2"}}],
        }
        (path / "run.json").write_text(json.dumps(content))
    return path


SETTINGS = {
    "recipe": "sac",
    "options": {"width": 256},
    "frames": 50_000,
    "utd": "1",
    "seeds": [0],
    "action_repeat": 2,
    "eval_episodes": 5,
    "log_every": 5000,
    "eval_every": 10_000,
    "diagnose_every": 0,
    "env": "dog-run",
}


def test_what_is_wrong_is_said_and_the_rest_drawn(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    good = folder(tmp_path / "runs/good", text=rows("sac-utd1", "dog-run", 0, 100), settings=SETTINGS)
    folder(tmp_path / "runs/empty", text="", settings=SETTINGS)
    folder(tmp_path / "runs/malformed", text="a,b,c\n", settings=SETTINGS)
    cut = rows("sac-utd1", "dog-run", 1, 100, last=20_000) + "sac-utd1,dog-run,1,eval/mean_rew"
    folder(tmp_path / "runs/cut", text=cut, settings=SETTINGS | {"seeds": [1]})
    (tmp_path / "other").mkdir()
    out = tmp_path / "new/report.html"
    assert main(["report", str(tmp_path / "runs"), str(tmp_path / "other"), "--out", str(out)]) == 0
    printed, complaints = capsys.readouterr()
    assert str(out) in printed
    said = words(out.read_text())
    for sentence in (
        "empty has no eval/mean_reward yet (stopped without a checkpoint)",
        "line 2 of",
        "cut ends at frame 20,000 of 50,000, and has no checkpoint to resume from",
        "other is not a run folder and holds none",
    ):
        assert sentence in said
        assert sentence in complaints
    assert "2 runs of 1 method on 1 task" in said
    for fact in ("width 256", "utd 1", "commit abc123", "versions (torch 2)", str(good)):
        assert fact in said
    assert main(["report", str(tmp_path / "other"), "--out", str(out)]) == 2
    assert capsys.readouterr().err.startswith("steadyq: nothing to read")


def test_film_strips_are_in_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = folder(tmp_path / "run", text=rows("sac-utd1", "dog-run", 0, 100), settings=SETTINGS)
    Image.new("RGB", (3000, 200), "red").save(run / "film_strip.png")
    (run / "film-strip-2.png").write_bytes(b"no picture")
    study = read_study([run])
    html = page.render(study)
    assert html.count('src="data:image/jpeg;base64,') == 1
    assert "film-strip-2.png cannot be read as a picture" in words(html)
    monkeypatch.setattr(details, "STRIPS_BYTES", 10)
    assert "1 more film strips are left out" in words(page.render(study))


# ---- served


def fetch(address: str) -> str:
    with urllib.request.urlopen(address, timeout=60) as answer:
        return answer.read().decode()


def test_watch_serves_and_follows(tmp_path: Path) -> None:
    run = folder(tmp_path / "run", text="", settings=SETTINGS)
    server = serve.Server([run], lambda state: page.render(read_study([run]), watched=state), port=0)
    server.refresh()
    server.start()
    try:
        waiting = fetch(server.address)
        assert "has no eval/mean_reward yet" in waiting
        assert not server.refresh()  # nothing has changed
        first = fetch(server.address + "state")
        with (run / "metrics.csv").open("a") as file:
            file.write(rows("sac-utd1", "dog-run", 0, 100, last=20_000))
        assert server.refresh()
        html = fetch(server.address)
        assert numbers(html)["returns"][0]["lines"][0]["y"] == [0, 20, 40]
        second = fetch(server.address + "state")
        assert first != second
        assert f'data-watched="{second}"' in html
        with pytest.raises(urllib.error.HTTPError, match="404"):
            fetch(server.address + "metrics.csv")
        with pytest.raises(InputError, match="cannot listen on port"):
            serve.Server([run], lambda state: "", port=int(server.address.rstrip("/").rpartition(":")[2]))
    finally:
        server.stop()


class Asked:
    """A clock that stands, until the test moves it, and knows that it was asked."""

    def __init__(self) -> None:
        self.now, self.asked = 0.0, threading.Event()

    def __call__(self) -> float:
        self.asked.set()
        return self.now


@contextlib.contextmanager
def served(place: Path, content: str = "the page", **how: Any) -> Iterator[serve.Server]:
    server = serve.Server([place], lambda state: content, port=0, **how)
    server.refresh()
    server.start()
    try:
        yield server
    finally:
        server.stop()


def connect(server: serve.Server) -> socket.socket:
    found = socket.create_connection(("127.0.0.1", int(server.address.rstrip("/").rpartition(":")[2])))
    found.settimeout(60)  # how long a test that fails may hang
    return found


def answer(server: serve.Server, *headers: str, path: str = "/") -> tuple[int, str]:
    """Status and content of an answer to exactly this request."""
    with connect(server) as reader:
        reader.sendall("\r\n".join([f"GET {path} HTTP/1.0", *headers, "", ""]).encode())
        with reader.makefile("rb") as file:
            head, _, content = file.read().decode().partition("\r\n\r\n")
    return int(head.split()[1]), content


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8008", "127.0.0.1:8008", "[::1]:8008", "localhost:9000"])
def test_the_page_is_for_names_of_this_machine(tmp_path: Path, host: str) -> None:
    """Under any port: a tunnel has its own at the other end."""
    with served(tmp_path) as server:
        assert answer(server, f"Host: {host}") == (200, "the page")


@pytest.mark.parametrize(
    "headers",
    [
        [],
        ["Host:"],
        ["Host: evil.example:8008"],
        ["Host: localhost.evil.example:8008"],
        ["Host: evil.example:8008", "Host: localhost:8008"],
        ["Host: localhost:8008@evil.example"],
        ["Host: 127.0.0.1.evil.example"],
        ["Host: 192.168.0.7:8008"],
        ["Host: localhost:"],
    ],
)
@pytest.mark.parametrize("path", ["/", "/state", "/nothing"])
def test_a_name_that_was_pointed_here_reads_nothing(tmp_path: Path, headers: list[str], path: str) -> None:
    with served(tmp_path) as server:
        status, content = answer(server, *headers, path=path)
        assert status == 421
        assert content == (
            f"this page is for this machine: open {server.address} here, or http://localhost:PORT/ "
            "at the other end of a tunnel\n"
        )


def test_a_reader_who_says_nothing_is_sent_away(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    with served(tmp_path, patience=0.01) as server, connect(server) as reader:
        assert reader.recv(1) == b""
    assert capfd.readouterr().err == ""


def test_a_reader_who_says_it_letter_by_letter_is_sent_away(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    clock = Asked()
    with served(tmp_path, patience=1_000, clock=clock) as server, connect(server) as reader:
        reader.sendall(b"G")
        assert clock.asked.wait(60)
        clock.now = 2_000
        reader.sendall(b"E")
        assert reader.recv(1) == b""
    assert capfd.readouterr().err == ""


def test_a_request_without_end_is_not_kept(tmp_path: Path) -> None:
    with served(tmp_path) as server, connect(server) as reader:
        with contextlib.suppress(ConnectionError):  # it is not read to its end, either
            reader.sendall(b"GET / HTTP/1.0\r\nA: " + b"x" * 10_000_000)
        with contextlib.suppress(ConnectionError):
            assert b"the page" not in reader.makefile("rb").read()


def test_so_many_readers_and_no_more(tmp_path: Path) -> None:
    with served(tmp_path, patience=1_000, most_readers=2) as server:
        with connect(server), connect(server):
            assert answer(server, "Host: localhost")[0] == 503
        while answer(server, "Host: localhost")[0] == 503:  # until their threads have seen that they left
            pass


def test_a_reader_who_leaves_is_nothing_to_print(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    with served(tmp_path, "x" * 50_000_000, most_readers=1) as server:
        for request in (b"", b"GET", b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n"):
            reader = connect(server)
            reader.sendall(request)
            if request.endswith(b"\n"):
                assert reader.recv(4) == b"HTTP"
            reader.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset, no farewell
            reader.close()
            while answer(server, "Host: localhost", path="/state")[0] == 503:  # until its thread is done with it
                pass
    assert capfd.readouterr().err == ""


def test_our_own_mistakes_are_printed(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    with served(tmp_path, most_readers=1) as server:
        server._page = None  # type: ignore[assignment]
        with pytest.raises(IndexError):
            answer(server, "Host: localhost")
        server._page = b"x"
        while answer(server, "Host: localhost", path="/state")[0] == 503:  # until the thread is done
            pass
    assert "TypeError" in capfd.readouterr().err


@pytest.mark.parametrize(
    "error", [RecursionError("deep"), MemoryError(), KeyError("<b>"), FileNotFoundError(2, "gone")]
)
def test_watch_goes_on_whatever_it_reads(tmp_path: Path, error: Exception) -> None:
    """A page with a sentence, and the page of the runs when they can be drawn again."""
    pages = iter([error, "the page"])

    def build(state: str) -> str:
        page = next(pages)
        if isinstance(page, Exception):
            raise page
        return page

    run = folder(tmp_path / "run", text="", settings=SETTINGS)
    server = serve.Server([tmp_path], build, port=0)
    assert server.refresh()
    assert f"the page cannot be made; the runs are as they were ({type(error).__name__}: " in unescape(
        server._page.decode()
    )
    assert b"<b>" not in server._page
    (run / "metrics.csv").write_text(HEADER + rows("sac-utd1", "dog-run", 0, 100))
    assert server.refresh()
    assert server._page == b"the page"
    server._http.server_close()


def test_the_state_is_of_what_can_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders that go away while they are listed, loops of links, and names that are no text."""
    folder(tmp_path / "run", text="", settings=SETTINGS)
    before = serve.fingerprint([tmp_path])
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "gone").mkdir()
    scandir = os.scandir

    def refusing(path: Any) -> Any:
        if Path(path).name == "gone":
            raise FileNotFoundError(2, "no such folder", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    assert serve.fingerprint([tmp_path, tmp_path / "nowhere"]) == before
    folder(tmp_path / os.fsdecode(b"\xff"), text="", settings=SETTINGS)
    assert serve.fingerprint([tmp_path]) != before


def test_a_link_to_a_picture_elsewhere_is_not_shown(tmp_path: Path) -> None:
    run = folder(tmp_path / "run", text=rows("sac-utd1", "dog-run", 0, 100), settings=SETTINGS)
    Image.new("RGB", (30, 20), "red").save(tmp_path / "mine.png")
    (run / "film_strip.png").symlink_to(tmp_path / "mine.png")
    os.mkfifo(run / "film_strip_2.png")
    (run / "film_strip_3.png").touch()
    os.truncate(run / "film_strip_3.png", 2**40)
    html = page.render(read_study([run]))
    assert "data:image/jpeg" not in html
    for words_ in (
        "it is a symbolic link",
        "film_strip_2.png: it is not a file",
        "1,099,511,627,776 bytes",
    ):
        assert words_ in words(html)


@pytest.mark.parametrize(
    ("record", "says"),
    [
        ("[" * 100_000, "RecursionError"),
        ('{"settings": {}}', "KeyError: 'options'"),
        ("[]", "it is not the record of a run"),
        ('{"settings": {"options": []}}', "AttributeError"),
        ('{"settings": {"options": {"a": "' + "x" * 10_000 + '"}}, "stretches": []}', "x" * 1_990 + " ..."),
    ],
)
def test_details_of_a_record_that_lies(tmp_path: Path, record: str, says: str) -> None:
    run = folder(tmp_path / "run", text=rows("sac-utd1", "dog-run", 0, 100))
    (run / "run.json").write_text(record)
    said = words(page.render(read_study([run])))
    assert says in said[said.index("folder " + str(run)) :]


# ---- in a browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Headless Chromium."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("no chromium and chromedriver on the path: the page is not tried in a browser")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--window-size=1300,900",
        f"--user-data-dir={tmp_path_factory.mktemp('browser')}",
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    window = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    window.set_script_timeout(300)
    yield window
    window.quit()


SETTLED = """
const done = arguments[0];
const look = () => document.documentElement.dataset.drawing === "no" ? done(true) : setTimeout(look, 20);
setTimeout(look, 50);
"""
COUNTS = "return [...document.querySelectorAll('.plot')].map((plot) => Number(plot.dataset.drawn))"


def settled(browser: Any) -> list[int]:
    """How many traces each panel has, once all are drawn."""
    browser.execute_async_script(SETTLED)
    return browser.execute_script(COUNTS)


def click(browser: Any, selector: str, number: int = 0) -> None:
    """As a keyboard does it: focus and Enter."""
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    browser.find_elements(By.CSS_SELECTOR, selector)[number].send_keys(Keys.ENTER)


def test_the_page_in_a_browser(tmp_path: Path, browser: Any) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    path = tmp_path / "report.html"
    path.write_text(page.render(read_study([table(tmp_path / "runs.csv", nasty=True)])), encoding="utf-8")
    browser.get(path.as_uri())
    before = settled(browser)
    assert len(before) == 4  # two tasks, their aggregate, one diagnostic
    # On a task two methods with line and band each, five seeds each, and two published curves with line and band each.
    assert before == [18, 18, 4, 4]
    chip = browser.execute_script("return document.querySelectorAll('#methods button')[1].textContent")
    assert chip == NASTY
    assert browser.execute_script("return document.querySelectorAll('img').length") == 0

    # Traces are in this order: published curves, bands, seeds, lines.
    point = "Plotly.Fx.hover(document.querySelector('.plot'), [{curveNumber: 17, pointNumber: 5}])"
    browser.execute_script(point)
    label = "return document.querySelector('.plot .hoverlayer').textContent"
    WebDriverWait(browser, 300).until(lambda window: window.execute_script(label) != "")
    shown = browser.execute_script(label)
    assert NASTY in shown
    assert "120 (" in shown
    assert shown.endswith("5 seeds, frame 50,000")

    click(browser, "#methods button", 1)
    assert settled(browser) == [11, 11, 2, 2]
    assert browser.execute_script("return document.querySelectorAll('#methods button')[1].ariaPressed") == "false"
    click(browser, "#references button", 0)
    assert settled(browser) == [9, 9, 2, 2]
    click(browser, "#seeds")
    assert settled(browser) == [4, 4, 2, 2]
    click(browser, "#bands")
    assert settled(browser) == [2, 2, 1, 1]

    browser.refresh()  # a watched page comes again: what the reader chose stays
    assert settled(browser) == [2, 2, 1, 1]
    click(browser, "#methods button", 1)
    click(browser, "#seeds")
    click(browser, "#bands")
    click(browser, "#references button", 0)
    assert settled(browser) == before

    browser.execute_script(
        "const to = document.getElementById('to'); to.value = 20000; to.dispatchEvent(new Event('change'))"
    )
    settled(browser)
    limits = "return [...document.querySelectorAll('.plot')].map((plot) => plot.layout.xaxis.range[1])"
    assert browser.execute_script(limits) == [20_000] * 4
    click(browser, "#reset")
    assert settled(browser) == before
    assert min(browser.execute_script(limits)) >= 50_000

    ground = "return getComputedStyle(document.body).backgroundColor"
    assert browser.execute_script(ground) == "rgb(255, 255, 255)"
    click(browser, "#theme")
    click(browser, "#theme")
    settled(browser)
    assert browser.execute_script(ground) == "rgb(18, 20, 23)"
    assert browser.execute_script("return document.querySelector('.plot').layout.paper_bgcolor") == "#1a1d21"
    click(browser, "#theme")

    click(browser, ".panel header button")
    settled(browser)
    wide = browser.execute_script("return document.querySelector('.plot').getBoundingClientRect().width")
    assert wide > 1000

    browser.execute_script(
        "const t = document.getElementById('task'); t.value = 'walker-run'; t.dispatchEvent(new Event('change'))"
    )
    assert settled(browser) == before
    assert browser.get_log("browser") == []


def test_the_page_on_a_phone(tmp_path: Path, browser: Any) -> None:
    path = tmp_path / "report.html"
    path.write_text(page.render(read_study([table(tmp_path / "runs.csv")])), encoding="utf-8")
    size = {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True})
    try:
        browser.get(path.as_uri())
        settled(browser)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
        # Tables are lists there: nothing to the right of the screen, and the IQM first of all that is measured.
        assert (
            browser.execute_script(
                "return Math.max(...[...document.querySelectorAll('.scroll')].map((t) => t.scrollWidth))"
            )
            <= 390
        )
        cell = "const c = document.querySelectorAll('td[data-of=IQM]')[1]; "
        place = browser.execute_script(cell + "const r = c.getBoundingClientRect(); return [r.left, r.right, r.height]")
        assert 0 <= place[0] < place[1] <= 390
        assert place[2] > 0
        assert browser.execute_script(cell + "return getComputedStyle(c, '::before').content") == '"IQM"'
        assert browser.execute_script("return document.querySelector('thead').getBoundingClientRect().height") == 0
        # A finger that drags over a panel must move the page.
        assert browser.execute_script("return document.querySelector('.plot').layout.dragmode") is False
        assert browser.get_log("browser") == []
    finally:
        browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_what_is_measured_of_single_layers_is_folded(tmp_path: Path, browser: Any) -> None:
    path, layered = tmp_path / "report.html", table(tmp_path / "runs.csv", count=1)
    with layered.open("a") as file:
        for name in ("elr", "elr/hidden_0", "elr/hidden_1"):
            file.write(f"sac-utd1,dog-run,0,diag/critic/{name},0,1\n")
    path.write_text(page.render(read_study([layered])), encoding="utf-8")
    browser.get(path.as_uri())
    browser.execute_script("sessionStorage.clear()")  # what was chosen on another test's page
    browser.refresh()
    of_layers = "return [...document.querySelectorAll('#layered .plot')].map((plot) => plot.dataset.drawn || 'no')"
    shown = "return [...document.querySelectorAll('#measures .plot')].map((plot) => plot.dataset.drawn)"
    settled(browser)
    assert browser.execute_script(shown) == ["2", "1"]  # of both methods the norm, of one the rate
    assert browser.execute_script(of_layers) == ["no", "no"]
    assert browser.execute_script("return document.querySelector('#layers summary').textContent") == (
        "2 more, of single layers"
    )
    folded = browser.execute_script("return document.body.scrollHeight")
    click(browser, "#layers summary")
    settled(browser)
    assert browser.execute_script(of_layers) == ["1", "1"]
    assert browser.execute_script("return document.body.scrollHeight") > folded + 250
    browser.refresh()
    settled(browser)
    assert browser.execute_script(of_layers) == ["1", "1"]  # it stays open
    assert browser.get_log("browser") == []
