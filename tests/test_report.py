"""`rulespace report`: one page, nothing from elsewhere, everything of a run shown as text; and the figures."""

from __future__ import annotations

import html
import html.parser
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from recorded import write_run

from experiments import cli
from experiments.figures import draw_table, mean_curve
from experiments.reporting.charts import axis, engineering, script_json
from experiments.reporting.summary import differing_settings, experiments
from experiments.run_records import find_runs
from experiments.tables.columns import own_columns
from experiments.tables.papers import TABLES

EVIL = "<script>alert('gotcha')</script>"
EVIL_CONFIG = "<img src=x onerror=alert(1)>"
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Page(html.parser.HTMLParser):
    """The elements of a page, with their attributes, and the text of each script."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.shown = ""
        self._in_script = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._in_script = tag == "script"

    def handle_data(self, data: str) -> None:
        if self._in_script:
            self.scripts.append(data)
        else:
            self.shown += data

    def handle_endtag(self, tag: str) -> None:
        self._in_script = False


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two experiments on two games with two seeds each, of which one failed; names and errors hold markup."""
    for config, gain in (("disco103_atari", 1.0), (EVIL_CONFIG, 2.0)):
        for game in ("pong", "breakout"):
            for seed in (0, 1):
                failed = gain == 2.0 and seed == 1 and game == "pong"
                words = (config, f"--gin_bindings=GAME = '{game}'", f"--gin_bindings=SEED = {seed}")
                write_run(
                    tmp_path / "runs" / f"{gain}-{game}-{seed}",
                    *words,
                    returns={game: [gain * (10.0 + seed)]},
                    status="failed" if failed else "finished",
                    error=f"no memory for {EVIL}" if failed else None,
                    config=f"LEARNING_RATE = {gain}\nGAME = '{game}'\nSEED = {seed}\nSAME = '{EVIL}'\n",
                )
    return tmp_path / "runs"


@pytest.fixture
def report(runs: Path) -> str:
    assert cli.main(["report", str(runs)]) == 0
    return (runs / "report.html").read_text()


def test_everything_of_a_run_is_shown_as_text(report: str) -> None:
    page = Page(report)
    assert f"no memory for {EVIL}" in page.shown
    assert EVIL_CONFIG in page.shown
    assert EVIL not in report
    assert EVIL_CONFIG not in report
    assert not [element for element in page.elements if "onerror" in element[1]]
    scripts = [attributes for tag, attributes in page.elements if tag == "script"]
    assert len(scripts) == 3  # the points of two charts, and the page's own
    assert [attributes.get("type") for attributes in scripts] == ["application/json", "application/json", None]


def test_nothing_comes_from_elsewhere(report: str) -> None:
    page = Page(report)
    sources = [
        value
        for _, attributes in page.elements
        for name, value in attributes.items()
        if name in ("src", "href", "srcset", "poster", "data", "action", "background") and value is not None
    ]
    assert sources
    assert all(value.startswith(("#", "data:")) for value in sources)
    assert not re.search(r"https?://|@import|url\(|fetch\(|XMLHttp|import\(", report)


def test_the_page_tells_all(report: str) -> None:
    shown = Page(report).shown
    for text in (
        "8 runs of 2 experiments: 7 finished, 1 failed", "LEARNING_RATE", "10.50 [10, 11]", "jax", "0.10.2",
        "commit 0123456789ab", "cpu:0 cpu", "Scores on the 57 Atari games", "333,105",
    ):  # fmt: skip
        assert text in shown
    assert "SAME" not in shown  # What is the same everywhere is no difference.


def test_curves_are_there_without_scripts(report: str) -> None:
    elements = Page(report).elements
    runs = [attributes for tag, attributes in elements if tag == "polyline" and attributes["class"] == "run"]
    means = [attributes for tag, attributes in elements if tag == "polyline" and attributes["class"] == "mean"]
    assert (len(runs), len(means)) == (8, 4)
    assert all(len((attributes["points"] or "").split()) == 10 for attributes in runs)


def test_points_for_scripts_are_the_mean_of_the_runs(report: str) -> None:
    first, second = (json.loads(text) for text in Page(report).scripts[:2])
    assert [series["experiment"] for series in first["series"]] == [0, 1]
    assert first["series"][0]["points"][-1] == [1000.0, 10.5]
    assert second["series"][1]["points"][-1] == [1000.0, 21.0]


def test_differences_are_of_experiments(runs: Path) -> None:
    found = experiments(find_runs([runs]))
    assert differing_settings(found) == [("LEARNING_RATE", ["1.0", "2.0"])]
    assert [experiment.label for experiment in found] == ["disco103_atari", EVIL_CONFIG]


def test_a_run_that_goes_on_shows_what_it_has_logged(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", "ppo_catch", status="unfinished")
    points = [
        {"step": step, "env_steps": 10 * step, "wall_seconds": 1.0, "return/catch": value}
        for step, value in ((1, None), (2, 0.25), (3, 0.5))
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(point) + "\n" for point in points))
    (experiment,) = experiments(find_runs([tmp_path]))
    assert experiment.curves == {"catch": [[(20.0, 0.25), (30.0, 0.5)]]}
    assert experiment.final_return("catch") is None


def test_the_page_goes_where_it_is_asked_to(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report", str(runs), f"--out={tmp_path / 'new' / 'a.html'}"]) == 0
    assert (tmp_path / "new" / "a.html").read_text().startswith("<!doctype html>")
    assert "8 runs of 2 experiments" in capsys.readouterr().out


def test_no_runs_no_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report", str(tmp_path)]) == 1
    assert "there is no run" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(BROWSER is None, reason="there is no Chromium on this machine")
def test_a_browser_opens_it_without_error_or_request(report: str, runs: Path, tmp_path: Path) -> None:
    probe = (
        "<script>addEventListener('load', () => { document.title = JSON.stringify("
        "performance.getEntriesByType('resource').map((entry) => entry.name)); "
        "document.querySelector('.legend button').click(); const svg = document.querySelector('figure svg'); "
        "const box = svg.getBoundingClientRect(); const at = { clientX: box.right - 20, clientY: box.top + 9 }; "
        "svg.dispatchEvent(new PointerEvent('pointermove', at)); });</script>"
    )
    page = runs / "probed.html"
    page.write_text(report.replace("</body>", f"{probe}</body>"))
    quiet = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking")
    done = subprocess.run(
        [str(BROWSER), *quiet, "--enable-logging=stderr", "--dump-dom", page.as_uri()],
        capture_output=True, text=True, timeout=60, check=True, env={**os.environ, "HOME": str(tmp_path)},
    )  # fmt: skip
    assert "CONSOLE" not in done.stderr
    # The first experiment was hidden by a click; pointing at the chart's end tells of the second alone.
    buttons = [attributes for tag, attributes in Page(done.stdout).elements if tag == "button"]
    assert [button["aria-pressed"] for button in buttons] == ["false", "true"]
    tip = Page(re.findall('<div class="tip".*?</div></div>', done.stdout)[0]).shown
    assert tip == f"1,000 steps21  {EVIL_CONFIG}"
    requested = json.loads(html.unescape(re.findall("<title>(.*?)</title>", done.stdout)[0]))
    assert not [url for url in requested if not url.startswith("data:")]


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (-21, 20, [-30, -20, -10, 0, 10, 20]), (3, 3, [2.5, 2.75, 3, 3.25, 3.5])],
)
def test_ticks_are_round(low: float, high: float, ticks: list[float]) -> None:
    found = axis(low, high)
    assert found.low <= low
    assert found.high >= high
    if low == high:
        assert found.low < low < found.high
    else:
        assert found.ticks == pytest.approx(ticks)


def test_numbers_of_axes() -> None:
    assert [engineering(value) for value in (0.25, 1500.0, 2e6, -3e9)] == ["0.25", "1.5k", "2M", "-3G"]


def test_json_ends_no_script() -> None:
    text = script_json({"a": "</script><!--"})
    assert "<" not in text
    assert json.loads(text) == {"a": "</script><!--"}


def test_figures_are_drawn(runs: Path, tmp_path: Path) -> None:
    table = TABLES["atari57"]
    drawn = draw_table(tmp_path / "figures", table, own_columns(table, find_runs([runs])))
    names = {path.stem for path in drawn}
    assert names == {"learning_curves", "aggregates", "performance_profiles", "probability_of_improvement", "tasks"}
    assert all(path.read_bytes()[:4] == b"\x89PNG" for path in drawn)


def test_bands_are_of_the_steps_that_all_runs_have(runs: Path) -> None:
    records = [run for run in find_runs([runs]) if run.config == "disco103_atari" and "pong" in run.tasks()]
    curve = mean_curve(records, "pong")
    assert len(curve) == 10
    np.testing.assert_allclose(curve[-1], (1000.0, 10.5, 10.0, 11.0))
    assert mean_curve(records[:1], "pong")[-1] == (1000.0, 10.0)
