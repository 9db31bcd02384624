"""The papers' tables: published aggregates, and definitions whose configs, sweeps and tasks exist."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from components.suites.atari import Atari
from components.suites.chains import Chains
from components.suites.dmlab import DMLab30
from components.suites.gridworlds import RandomGridworlds, TabularGridworlds
from components.suites.procgen import ProcGen
from components.suites.sokoban import Sokoban
from experiments import published
from experiments.run_records import parse_arguments
from experiments.tables.definitions import Table
from experiments.tables.papers import TABLES
from experiments.tables.sheet import NOT_HELD, NOTHING, sheet
from framework.config import Loaded, load, shipped_gin_folder
from framework.experiment import Experiment
from launch.sweep import Unit
from launch.sweep_file import read_sweep

GIN = shipped_gin_folder()
EACH_TABLE = pytest.mark.parametrize("table", TABLES.values(), ids=list(TABLES))


def printed(table: str, agent: str, row: str) -> str:
    """A cell of a table with published columns alone."""
    written = sheet(TABLES[table], [])
    column = [cell.text for cell in written.head].index(agent)
    (found,) = [line for line in written.rows if line.cells[0].text == row]
    return found.cells[column].text


def loaded(unit: Unit) -> Loaded:
    """The experiment of a unit of a sweep."""
    config, files, bindings = parse_arguments(unit.arguments)
    return load(config, gin_files=files, bindings=[f"{n} = {value}" for n, value in bindings.items()], root=Experiment)


@pytest.mark.parametrize(
    ("table", "row", "expected"),
    [
        ("atari57", "IQM", {"Disco57": "14.49", "Disco103": "14.50", "random": "0.00", "human": "1.00"}),
        ("atari57", "mean", {"Disco57": "31.02", "Disco103": "28.49"}),
        ("atari57", "median", {"Disco57": "9.59", "Disco103": "10.00"}),
        (
            "procgen",
            "mean",
            {
                "Disco57": "0.837", "Disco103": "0.889", "MuZero": "0.718", "Dreamer": "0.668", "PPG": "0.649",
                "PPO": "0.412",
            },
        ),
        ("dmlab30", "mean, capped", {"IMPALA": "0.444", "Disco57": "0.372", "Disco103": "0.575"}),
    ],
)  # fmt: skip
def test_aggregates_of_the_papers(table: str, row: str, expected: dict[str, str]) -> None:
    assert {agent: printed(table, agent, row) for agent in expected} == expected


def test_the_interquartile_mean_of_atari_leaves_out_14_games_at_each_end() -> None:
    table = TABLES["atari57"]
    disco103 = next(column for column in table.published if column.label == "Disco103")
    scores = sorted(float(table.normalized(task, np.asarray(disco103.scores[task]))) for task in table.tasks)
    assert math.fsum(scores[14:-14]) / 29 == pytest.approx(14.4964, abs=1e-4)


def test_published_numbers_are_printed_as_they_are() -> None:
    assert printed("atari57", "Disco103", "alien") == "333,105"
    assert printed("procgen", "human", "bigfish") == "40.00"
    crafter = {(row.cells[0].text, row.cells[3].text): row.cells[1].text for row in sheet(TABLES["crafter"], []).rows}
    assert crafter["Disco103", "1 M"] == "6.59"
    assert crafter["Disco103", "20 M"] == "14.56"
    assert crafter["Rainbow", "1 M"] == "5.00"


@EACH_TABLE
def test_what_is_not_held_says_so_and_nothing_published_has_an_interval(table: Table) -> None:
    for column in table.published:
        assert set(column.scores) <= set(table.tasks)
    cells = [cell.text for row in sheet(table, []).rows for cell in row.cells[1:]]
    assert cells
    assert not [text for text in cells if "[" in text]
    assert all(text in (NOT_HELD, NOTHING) or text[0].isdigit() or text[0] == "-" for text in cells)


@pytest.mark.parametrize("name", ["sokoban", "ablations", "scaling", "lpg_atari", "lpg_toy"])
def test_tables_that_are_not_held_have_no_number(name: str) -> None:
    cells = [cell.text for row in sheet(TABLES[name], []).rows for cell in row.cells[1:]]
    assert NOT_HELD in cells
    assert set(cells) <= {NOT_HELD, NOTHING}


def test_footnotes_where_protocols_differ() -> None:
    def notes(table: str, label: str) -> str:
        return " ".join(next(column for column in TABLES[table].published if column.label == label).footnotes)

    assert all("unlimited levels" in notes("procgen", label) for label in ("PPO", "PPG", "Dreamer"))
    assert any("rank" in note for note in TABLES["nethack"].footnotes)
    assert any("not Boxoban" in note for note in TABLES["sokoban"].footnotes)
    assert any("sticky" in note for note in TABLES["atari57"].footnotes)


@EACH_TABLE
def test_configs_and_sweeps_exist(table: Table) -> None:
    for config in (*table.experiments, *(variant.config for variant in table.variants)):
        assert (GIN / "experiments" / f"{config}.gin").is_file()
    for file in (file for variant in table.variants for file in variant.gin_files):
        assert (GIN / file).is_file()
    for name in filter(None, (table.before, table.sweep, table.beside)):
        assert (GIN / "sweeps" / f"{name}.gin").is_file()


@EACH_TABLE
@pytest.mark.parametrize("scale", ["", "small"])
def test_sweeps_run_the_tables_configs_on_its_tasks(table: Table, scale: str) -> None:
    sweeps = filter(None, (table.sweep, table.beside))
    units = [unit for name in sweeps for unit in read_sweep(name, scale=scale).sweep.units()]
    assert {unit.settings["experiment"] for unit in units} == set(table.experiments)
    chosen = {unit.settings[macro] for unit in units for macro in table.task_macros if macro in unit.settings}
    assert chosen <= set(table.tasks)
    if not scale and table.task_macros:
        assert chosen == set(table.tasks)
    small = [any(word.startswith("--gin_file=scale/") for word in unit.arguments) for unit in units]
    assert all(small) if scale else not any(small)


@pytest.mark.parametrize("name", ["ablations", "scaling"])
@pytest.mark.parametrize("scale", ["", "small"])
def test_every_variant_is_discovered_and_evaluated(name: str, scale: str) -> None:
    table = TABLES[name]
    known = {file for variant in table.variants for file in variant.gin_files}
    discoveries = {
        f"runs/{table.before}{scale and '-small'}/{unit.name}": (
            unit.settings["experiment"],
            {unit.settings["gin_file"]} & known,
        )
        for unit in read_sweep(table.before, scale=scale).sweep.units()
    }
    assert len(discoveries) == len(table.variants)
    for variant in table.variants:
        assert (variant.config, set(variant.gin_files)) in discoveries.values()
    evaluated = {unit.settings["RUN"] for unit in read_sweep(table.sweep, scale=scale).sweep.units()}
    assert evaluated == set(discoveries)


@pytest.mark.parametrize("name", ["discover_ablations", "discover_scaling"])
@pytest.mark.parametrize("scale", ["", "small"])
def test_every_discovery_is_another(name: str, scale: str) -> None:
    """What tells discoveries apart must not be what makes all of them small."""
    units = read_sweep(name, scale=scale).sweep.units()
    hashes = {unit.name: loaded(unit).config_hash for unit in units}
    assert len(set(hashes.values())) == len(units), hashes


@pytest.mark.parametrize("scale", ["", "small"])
def test_the_toys_are_all_of_the_tables_tasks(scale: str) -> None:
    for name in (TABLES["lpg_toy"].sweep, TABLES["lpg_toy"].beside):
        groups = loaded(read_sweep(name, scale=scale).sweep.units()[0]).experiment.groups
        assert [task for group in groups for task in group.suite.tasks()] == list(TABLES["lpg_toy"].tasks)
        assert all(group.agents >= len(group.suite.tasks()) for group in groups)


@pytest.mark.parametrize("name", ["lpg_atari", "lpg_toy"])
@pytest.mark.parametrize("scale", ["", "small"])
def test_the_rule_of_lpg_is_discovered_where_it_is_looked_for(name: str, scale: str) -> None:
    table = TABLES[name]
    (discovery,) = read_sweep(table.before, scale=scale).sweep.units()
    for unit in read_sweep(table.sweep, scale=scale).sweep.units():
        rule = f"runs/{table.before}{scale and '-small'}/{discovery.name}"
        assert f"--gin.RUN={rule!r}" in unit.arguments


def test_tasks_are_called_as_suites_call_them() -> None:
    assert Atari(games=TABLES["atari57"].tasks).tasks() == TABLES["atari57"].tasks
    assert ProcGen(games=TABLES["procgen"].tasks).tasks() == TABLES["procgen"].tasks
    assert set(DMLab30().tasks()) == set(TABLES["dmlab30"].tasks)
    toys = [*TabularGridworlds().tasks(), *RandomGridworlds().tasks(), *Chains().tasks()]
    assert set(TABLES["lpg_toy"].tasks) == set(toys)
    assert {task for split in ("train", "test") for task in Sokoban(split=split).tasks()} == set(
        TABLES["sokoban"].tasks
    )


def test_the_data_have_a_source() -> None:
    text = (Path(published.__file__).parent / "SOURCES.md").read_text()
    files = sorted(path.name for path in Path(published.__file__).parent.glob("*.csv"))
    assert len(files) == 6
    assert all(f"`{name}`" in text for name in files)


def test_steps_are_those_of_the_papers() -> None:
    """Frames of Atari and DMLab-30 are four to a step."""
    millions = {name: (table.env_steps or 0.0) / 1e6 for name, table in TABLES.items()}
    assert millions["atari57"] == 50
    assert millions["dmlab30"] == 250
    assert millions["crafter"] == 50
    assert millions["procgen"] == millions["nethack"] == millions["sokoban"] == 200
