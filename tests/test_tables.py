"""`rulespace table`: columns filled from run folders, what is missing said, and every format with its escapes."""

from __future__ import annotations

import csv
import html.parser
import io
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from recorded import write_run, write_sweep
from running import process_environment

from experiments import cli
from experiments.run_records import find_runs, is_small, parse_arguments, parse_settings
from experiments.tables import papers
from experiments.tables.columns import OwnColumn, own_columns
from experiments.tables.formats import FORMATS
from experiments.tables.papers import TABLES, achievements_score
from experiments.tables.sheet import Cell, Row, Sheet, sheet
from framework.aggregates import interquartile_mean, mean, stratified_bootstrap
from framework.errors import UserError

ATARI = TABLES["atari57"]


def columns(folder: Path, table: str = "atari57") -> list[OwnColumn]:
    return own_columns(TABLES[table], find_runs([folder]))


def own_cells(folder: Path, table: str = "atari57") -> dict[str, str]:
    """{row: cell} of the last column, which is our own."""
    written = sheet(TABLES[table], columns(folder, table))
    return {row.cells[0].text: row.cells[-1].text for row in written.rows}


def atari(folder: Path, game: str, seed: int, value: float | None, *more: str) -> None:
    """A finished run on a game; without a value, one that goes on."""
    words = ("disco103_atari", f"--gin_bindings=GAME = '{game}'", f"--gin_bindings=SEED = {seed}", *more)
    config = f"GAME = '{game}'\nSEED = {seed}\nGAMES = [%GAME]\n"
    returns = None if value is None else {game: [value]}
    write_run(
        folder / f"{game}-{seed}", *words, returns=returns, status="unfinished" if value is None else "finished",
        config=config, env_steps=500_000,
    )  # fmt: skip


def test_runs_that_differ_in_game_and_seed_make_one_column(tmp_path: Path) -> None:
    for game, values in {"alien": [1000.0, 3000.0], "pong": [-20.0, -10.0], "breakout": [30.0, 50.0]}.items():
        for seed, value in enumerate(values):
            atari(tmp_path, game, seed, value)
    (column,) = columns(tmp_path)
    assert column.label == "disco103_atari"
    assert column.tasks() == ["alien", "breakout", "pong"]
    cells = own_cells(tmp_path)
    assert cells["alien"] == "2,000 [1,000, 3,000]"
    assert cells["amidar"] == "-"
    scores = column.normalized_scores()
    np.testing.assert_allclose(scores[:, 2], [1 / 36, 11 / 36])
    expected = stratified_bootstrap(scores, interquartile_mean)
    assert cells["IQM"] == f"{expected.estimate:.2f} [{expected.low:.2f}, {expected.high:.2f}] (3 tasks)"
    assert (cells["environment steps"], cells["of the paper's steps"]) == ("0.5 M", "1 %")
    assert cells["runs finished"] == "6 of 6"
    assert cells["runs of a task"] == "2"
    assert cells["scale"] == "of the config"


def test_all_games_make_the_papers_aggregate(tmp_path: Path) -> None:
    """The published means, as if they were our own runs: the same definitions are used for both."""
    published = next(column for column in ATARI.published if column.label == "Disco57")
    for game, score in published.scores.items():
        atari(tmp_path, game, 0, score)
    cells = own_cells(tmp_path)
    assert (cells["IQM"], cells["mean"], cells["median"]) == ("14.49", "31.02", "9.59")


def test_runs_as_long_as_the_papers_say_so(tmp_path: Path) -> None:
    words = ("disco103_atari", "--gin.GAME=pong")
    write_run(tmp_path / "0", *words, returns={"pong": [20.0]}, env_steps=50_000_000)
    assert own_cells(tmp_path)["of the paper's steps"] == "100 %"


def test_scores_above_human_count_as_one_where_the_paper_caps(tmp_path: Path) -> None:
    write_run(tmp_path / "a", "disco103_dmlab30", returns={"rooms_watermaze": [1000.0]})
    assert own_cells(tmp_path, "dmlab30")["mean, capped"] == "1.000 (1 task)"


def test_agents_of_a_population_are_runs(tmp_path: Path) -> None:
    write_run(
        tmp_path / "a", "ppo_atari", "--gin_bindings=GAMES = ('pong', 'alien')", env_steps=4000,
        returns={"pong": [-20.0, -18.0], "alien": [300.0, 500.0]},
    )  # fmt: skip
    cells = own_cells(tmp_path)
    assert cells["pong"] == "-19 [-20, -18]"
    assert (cells["environment steps"], cells["of the paper's steps"]) == ("1,000", "0.002 %")


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    atari(tmp_path, "pong", 0, 5.0)
    atari(tmp_path, "pong", 1, None)
    atari(tmp_path, "alien", 0, None)
    write_run(
        tmp_path / "failed", "disco103_atari", "--gin.GAME=alien", "--gin.SEED=1", returns={"alien": [1.0]},
        status="failed", error="out of memory",
    )  # fmt: skip
    cells = own_cells(tmp_path)
    assert cells["pong"] == "5 (1 of 2)"
    assert cells["alien"] == "- (0 of 2)"
    assert cells["amidar"] == "-"
    assert cells["runs finished"] == "1 of 4"


def test_units_that_were_not_started_are_missing(tmp_path: Path) -> None:
    units = {f"alien-{seed}": ("disco103_atari", "--gin.GAME='alien'", f"--gin.SEED={seed}") for seed in range(3)}
    write_sweep(tmp_path, units)
    atari(tmp_path, "alien", 0, 7.0)
    assert own_cells(tmp_path)["alien"] == "7 (1 of 3)"
    assert own_cells(tmp_path)["runs finished"] == "1 of 3"


def test_tasks_that_a_command_does_not_name_are_those_of_its_other_runs(tmp_path: Path) -> None:
    write_run(tmp_path / "0", "disco103_nethack", "--gin.SEED=0", returns={"nethack_challenge": [5.0]})
    write_sweep(tmp_path, {str(seed): ("disco103_nethack", f"--gin.SEED={seed}") for seed in range(2)})
    written = sheet(TABLES["nethack"], columns(tmp_path, "nethack"))
    assert [cell.text for cell in written.rows[-1].cells[1:3]] == ["5 (1 of 2)", "-"]


def test_other_settings_make_another_column(tmp_path: Path) -> None:
    atari(tmp_path / "a", "pong", 0, 1.0)
    atari(tmp_path / "b", "pong", 0, 2.0, "--gin_bindings=LEARNING_RATE = 1e-3", "--gin_bindings=STEPS = 7")
    atari(tmp_path / "c", "pong", 0, 3.0, "--gin_file=rules/disco_no_p.gin")
    labels = [column.label for column in columns(tmp_path)]
    assert labels == [
        "disco103_atari",
        "disco103_atari, LEARNING_RATE = 1e-3, STEPS = 7",
        "disco103_atari, rules/disco_no_p.gin",
    ]
    written = sheet(ATARI, columns(tmp_path))
    assert [cell.text for cell in written.head[-3:]] == ["disco103_atari"] * 3
    assert "with LEARNING_RATE = 1e-3, STEPS = 7." in written.footnotes


def test_fewer_runs_of_a_task_are_said(tmp_path: Path) -> None:
    for seed in range(3):
        atari(tmp_path, "pong", seed, float(seed))
    atari(tmp_path, "alien", 0, 100.0)
    written = sheet(ATARI, columns(tmp_path))
    assert "tasks have 1 to 3 runs: aggregates take the first 1 of each." in written.footnotes


def test_configs_that_changed_under_the_same_command_are_said(tmp_path: Path) -> None:
    for seed, rate in enumerate((1, 2)):
        words = ("disco103_atari", "--gin.GAME=pong", f"--gin.SEED={seed}")
        write_run(
            tmp_path / str(seed), *words, returns={"pong": [1.0]}, config=f"SEED = {seed}\nLEARNING_RATE = {rate}\n"
        )
    assert any("differ in LEARNING_RATE" in note for note in sheet(ATARI, columns(tmp_path)).footnotes)


def test_small_runs_are_labelled_in_every_format(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    atari(tmp_path, "pong", 0, 5.0, "--gin_file=scale/table_small.gin")
    for name in FORMATS:
        assert cli.main(["table", "atari57", str(tmp_path), f"--format={name}"]) == 0
        assert "small scale" in capsys.readouterr().out


def test_discoveries_are_no_columns(tmp_path: Path) -> None:
    config = "experiments.Experiment.discovery = @discoveries.Discovery()\n"
    write_run(tmp_path / "a", "disco57", returns={"pong": [1.0]}, config=config)
    assert columns(tmp_path) == []


def ablations(rules: str = "runs", **finals: dict[str, list[float]]) -> dict[str, dict[str, str]]:
    """{rule: {head: cell}} of the table of ablations, from runs with given final returns, one a seed.

    Where the runs took their rules from is a folder here, or the address that its files were fetched from.
    """
    files = {"full": [], "no_p": ["--gin_file=rules/disco_no_p.gin"]}
    for name, of_games in finals.items():
        write_run(Path("runs") / name, "disco57", *files[name], "--gin_file=scale/tiny.gin", returns={"pong": [0.0]})
        for game, values in of_games.items():
            for seed, value in enumerate(values):
                words = (f"--gin.GAME={game}", f"--gin.RUN='{rules}/{name}'", f"--gin.SEED={seed}")
                folder = Path("out") / f"{name}-{game}-{seed}"
                write_run(folder, "evaluate_disco_atari", *words, returns={game: [value]})
    written = sheet(TABLES["ablations"], columns(Path("out"), "ablations"))
    head = [cell.text for cell in written.head]
    return {row.cells[0].text: dict(zip(head, (cell.text for cell in row.cells), strict=True)) for row in written.rows}


@pytest.mark.parametrize("rules", ["runs", "gs://bucket/grids/runs"])
def test_ablations_are_told_apart_by_how_their_rule_was_discovered(
    rules: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = ablations(rules, full={"pong": [0.0, 1.0]}, no_p={"pong": [0.0, 1.0]})
    assert rows["Disco57"]["IQM"] == rows["without p"]["IQM"] == "0.60 [0.58, 0.61] (1 task)"
    assert rows["Disco57"]["scale"] == "small scale"  # as the rule is
    assert set(list(rows["without q"].values())[1:]) == {"-"}


RELATIVE = "IQM relative to Disco57"


def test_ablations_are_relative_to_the_whole_rule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pong's scale is from -21 to 15: -3 is a half."""
    monkeypatch.chdir(tmp_path)
    rows = ablations(full={"pong": [15.0, 15.0], "alien": [500.0]}, no_p={"pong": [-3.0, -3.0]})
    assert rows["without p"][RELATIVE] == "-50 % [-50 %, -50 %] (1 task)"  # Alien was not run without p.
    assert rows["Disco57"][RELATIVE] == "-"
    assert rows["as published"][RELATIVE] == "not held"


def test_a_variant_is_called_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(Path("runs/103"), "disco103", returns={"coinrun": [0.0]})
    words = ("evaluate_disco_procgen", "--gin.GAME=coinrun", "--gin.RUN='runs/103'")
    write_run(Path("out"), *words, returns={"coinrun": [1.0]})
    written = sheet(TABLES["scaling"], columns(Path("out"), "scaling"))
    assert written.rows[-1].cells[0].text == "103 environments (Atari, ProcGen, DMLab-30)"


def test_nothing_is_relative_to_what_is_not_positive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert ablations(full={"pong": [-21.0]}, no_p={"pong": [0.0]})["without p"][RELATIVE] == "-"


def test_what_may_not_be_positive_gives_no_interval(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = ablations(full={"pong": [-22.0, 15.0]}, no_p={"pong": [15.0, 15.0]})
    assert rows["without p"][RELATIVE] == "+106 % (1 task)"


def test_the_solved_levels_of_sokoban_are_the_last_that_are_told(tmp_path: Path) -> None:
    from components.suites import sokoban_environment

    assert papers.SOLVED == sokoban_environment.SOLVED
    folder = write_run(tmp_path / "a", "disco103_sokoban", returns={"sokoban_train": [3.0]})
    told = [(1, 4, 0.25), (2, 2, 0.5), (3, 0, 0.0)]
    (folder / "metrics.jsonl").write_text(
        "".join(
            f'{{"step": {step}, "env_steps": {step}, "wall_seconds": 1.0, "episode/completed": {episodes}, '
            f'"sokoban/solved": {share}}}\n'
            for step, episodes, share in told
        )
    )
    (run,) = find_runs([tmp_path])
    assert papers.solved_percent(run) == 50.0


def test_the_score_of_crafter_is_of_the_first_million_steps(tmp_path: Path) -> None:
    from components.streams.crafter import ACHIEVEMENT_NUMBERS

    folder = write_run(tmp_path / "a", "disco103_crafter", returns={"crafter": [3.0]})

    def point(step: int, env_steps: int, episodes: int, share: float) -> str:
        reached = ", ".join(f'"{name}": {share}' for name in ACHIEVEMENT_NUMBERS)
        fixed = f'"step": {step}, "env_steps": {env_steps}, "wall_seconds": 1.0, "episode/completed": {episodes}'
        return f"{{{fixed}, {reached}}}\n"

    points = [point(1, 1000, 1, 0.0), point(2, 2000, 0, 0.9), point(3, 1_000_000, 3, 0.4), point(4, 1_000_001, 9, 1.0)]
    (folder / "metrics.jsonl").write_text("".join(points))
    (run,) = find_runs([tmp_path])
    assert achievements_score(run) == pytest.approx(30.0)  # (1 x 0 + 3 x 40 %) / 4 of every achievement
    written = sheet(TABLES["crafter"], columns(tmp_path, "crafter"))
    assert [cell.text for cell in written.rows[-1].cells[:3]] == ["disco103_crafter", "3", "30.00"]


def test_arguments_are_read_however_they_are_spelled() -> None:
    words = ["run", "a/b.gin", "--gin.X=1", "--gin_bindings=X=2", "--gin_bindings=s/C.y = 'a = b'", "--gin_file=f.gin"]
    assert parse_arguments([*words, "--workdir=runs/x"]) == ("b", ("f.gin",), {"X": "2", "s/C.y": "'a = b'"})


def test_scale_is_read_from_files_and_from_what_a_config_includes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.gin").write_text("include 'experiments/ppo_catch.gin'\ninclude 'scale/small.gin'\n")
    Path("other.gin").write_text("include 'experiments/ppo_catch.gin'  # not scale/small.gin\n")
    assert is_small(["mine.gin"])
    assert is_small(["ppo_catch", "--gin_file=scale/any.gin"])
    assert not is_small(["other.gin", "--gin_file=rules/ppo.gin"])


def test_settings_are_read_over_several_lines() -> None:
    text = "A = 1\n\nx.B.c = [\n    @d.E(),\n    2,\n]\nF = 'a = b'\n"
    assert parse_settings(text) == {"A": "1", "x.B.c": "[ @d.E(), 2, ]", "F": "'a = b'"}


NASTY = Sheet(
    title="A & B <script>alert(1)</script>",
    caption="50 % of $x_1^2$ ~ {a} \\ #",
    head=(Cell("task"), Cell('a|b, "c"', (1,))),
    rows=(Row((Cell("p*o_n`g"), Cell("<b>1,000</b>"))), Row((Cell("IQM"), Cell("-\n2")), summary=True)),
    footnotes=("5 % & more_or <less>",),
)


def test_csv_keeps_every_cell() -> None:
    rows = list(csv.reader(io.StringIO(FORMATS["csv"](NASTY))))
    assert rows == [["task", 'a|b, "c"'], ["p*o_n`g", "<b>1,000</b>"], ["IQM", "-\n2"]]


class _Read(html.parser.HTMLParser):
    """The elements and the text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_html_shows_markup_as_text() -> None:
    page = _Read(FORMATS["html"](NASTY))
    assert "script" not in page.tags
    assert "b" not in page.tags
    assert "<b>1,000</b>" in page.text
    assert "A & B <script>alert(1)</script>" in page.text


def test_markdown_is_one_line_a_row() -> None:
    lines = [line for line in FORMATS["md"](NASTY).splitlines() if line.startswith("|")]
    assert len(lines) == 4
    assert len({len(line) for line in lines}) == 1
    assert r"a\|b" in lines[0]
    assert r"p\*o\_n\`g" in lines[2]
    assert "<b>" not in "".join(lines).replace("\\<", "")


def test_latex_leaves_no_special_character(tmp_path: Path) -> None:
    text = FORMATS["tex"](NASTY)
    assert r"50 \% of \$x\_1\textasciicircum{}2\$ \textasciitilde{} \{a\} \textbackslash{} \#" in text
    assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")
    latex = shutil.which("pdflatex")
    if latex is not None:
        (tmp_path / "a.tex").write_text(f"\\documentclass{{article}}\\begin{{document}}{text}\\end{{document}}")
        subprocess.run([latex, "-halt-on-error", "a.tex"], cwd=tmp_path, check=True, capture_output=True)


def test_without_a_name_there_is_a_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["table"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(TABLES)


def test_without_folders_there_are_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["table", "ablations"]) == 0
    printed = capsys.readouterr().out
    assert "rulespace launch discover_ablations --on=local --scale=small" in printed
    assert "rulespace table ablations runs/table_ablations-small" in printed
    assert cli.main(["table", "lpg_toy"]) == 0
    assert "rulespace table lpg_toy runs/table_lpg_toy runs/table_lpg_toy_a2c\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["atary57"], "there is no table 'atary57'. Did you mean 'atari57'?"),
        (["atari57", "nowhere"], "nowhere is no folder"),
        (["atari57", "empty"], "there is no run in empty"),
        (["procgen", "runs"], "no run in runs belongs to the table procgen"),
        (["atari57", "--figures=f"], "figures are of runs"),
    ],
)
def test_mistakes_are_said_in_words(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    atari(Path("runs"), "pong", 0, 1.0)
    assert cli.main(["table", *words]) == 1
    assert message in capsys.readouterr().err


def test_a_damaged_sweep_is_named(tmp_path: Path) -> None:
    (tmp_path / "sweep.json").write_text("{}")
    with pytest.raises(UserError, match=r"sweep.json describes no sweep"):
        find_runs([tmp_path])


def test_tables_and_reports_load_no_jax(tmp_path: Path) -> None:
    """They start in the blink of an eye, on machines without an accelerator, too."""
    atari(tmp_path, "pong", 0, 5.0)
    code = (
        "import sys; from experiments import cli; runs = sys.argv[1]; "
        "assert cli.main(['table', 'procgen']) == cli.main(['table', 'atari57', runs]) == 0; "
        "assert not {'jax', 'gin', 'matplotlib', 'tensorflow'} & sys.modules.keys(), 'a table loads too much'; "
        "assert cli.main(['report', runs]) == 0; "
        "assert not {'jax', 'gin', 'tensorflow', 'matplotlib.pyplot'} & sys.modules.keys(), 'a report loads too much'"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, env=process_environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_mean_is_not_of_a_task_alone() -> None:
    """Aggregates of own columns are functions of [runs, tasks], as published ones are of [tasks]."""
    scores = np.asarray([[1.0, 2.0], [3.0, 4.0]])
    assert mean(scores) == mean(scores.mean(axis=0))
