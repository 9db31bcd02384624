"""``make quickstart`` in small: a rule is discovered, used in worlds it never saw beside others, and drawn."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread

from experiments import cli, quickstart
from experiments.comparison import Comparison, Contender, difference, interval, learning_curve
from experiments.quickstart import OURS, UNTRAINED, Quickstart
from framework.aggregates import interquartile_mean
from framework.config import load
from framework.errors import UserError
from framework.exit_status import FAILED, INTERRUPTED, OK
from framework.experiment import Experiment
from framework.runs.curves import Panel, draw_panels
from framework.trials import Curves

SHORT = ("Gridworld.max_steps = 20", "grid_sparse/Gridworld.max_steps = 20")  # Episodes end all the time.
AGENTS = (*SHORT, "NUM_ENVIRONMENTS = 4", "TRAJECTORY_LENGTH = 10")
RULE = ("TRAJECTORY_LSTM_SIZE = 3", "PREDICTION_CATEGORIES = 3")
DISCOVERY = (
    *AGENTS,
    *RULE,
    "STEPS = 2",
    "AGENTS = 2",
    "LEARNING_RATES = [20.0, 40.0]",
    "ALPHAS_Y = [0.5]",
    "Experiment.evaluation = @Evaluation()",
    "Evaluation.interval = 1",
    "Evaluation.episodes = 2",
    "Experiment.logging = @Logging()",
    "Logging.interval = 1",
)
EVALUATION = (*AGENTS, *RULE, "STEPS = 30", "WORLDS = 8", "CHAIN_WORLDS = 2")
HAND_MADE = (*AGENTS, "LEARNING_RATES = [5.0, 10.0]")
UNSEEN = {"grid_7x7": 4, "other_rewards": 4, "chain": 2}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Quickstart:
    folder = tmp_path_factory.mktemp("quickstart")
    return Quickstart(folder, 1, of_discovery=DISCOVERY, of_evaluation=EVALUATION, of_hand_made=HAND_MADE)


@pytest.fixture(scope="module")
def results(small: Quickstart) -> dict[str, Any]:
    """What a whole quickstart leaves."""
    assert small.main() == OK
    found: dict[str, Any] = json.loads((small.folder / "comparison.json").read_text())
    return found


def test_every_rule_learns_in_the_same_unseen_worlds(results: dict[str, Any]) -> None:
    assert list(results["rules"]) == [OURS, "PPO", "A2C", UNTRAINED]
    assert (results["seed"], results["updates"]) == (1, 30)
    assert not UNSEEN.keys() & set(results["seen"])
    first_returns = set()
    for rule in results["rules"].values():
        assert {task: len(found["late_returns"]) for task, found in rule["tasks"].items()} == UNSEEN
        assert len(rule["scores_of_choices"]) == 2
        found = rule["tasks"]["grid_7x7"]
        assert found["late_return"]["low"] <= found["late_return"]["estimate"] <= found["late_return"]["high"]
        assert found["curve"][-1][0] <= 30 * 40
        first_returns.add(json.dumps(found["curve"][0]))
    assert len(first_returns) == 1  # The first point is of one update, before which nobody has learned.


def test_hyperparameters_are_the_best_of_the_choices(results: dict[str, Any]) -> None:
    for name, values in ((OURS, [20.0, 40.0]), ("A2C", [5.0, 10.0])):
        rule = results["rules"][name]
        scores = [-np.inf if score is None else score for score in rule["scores_of_choices"]]
        assert rule["chosen"]["learning_rate"] == values[int(np.argmax(scores))]


def test_differences_are_those_of_the_returns(results: dict[str, Any]) -> None:
    assert list(results["differences"]) == ["PPO", "A2C", UNTRAINED]
    ours, theirs = (results["rules"][name]["tasks"]["grid_7x7"]["late_returns"] for name in (OURS, "PPO"))
    found = results["differences"]["PPO"]["grid_7x7"]["interval"]["estimate"]
    assert found == pytest.approx(interquartile_mean(np.array(ours)) - interquartile_mean(np.array(theirs)))


def test_leaves_a_run_and_a_picture(small: Quickstart, results: dict[str, Any]) -> None:
    assert results
    assert json.loads((small.run / "result.json").read_text())["status"] == "finished"
    picture = imread(small.folder / "quickstart.png")[..., :3]
    assert picture.shape[0] > 1000
    assert 0.8 < (picture > 0.99).mean() < 0.999


def test_the_same_command_goes_on(
    small: Quickstart, results: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    before = (small.folder / "comparison.json").read_bytes()
    assert small.main() == OK
    printed = capsys.readouterr().out
    assert f"{small.run} is finished" in printed
    assert (small.folder / "comparison.json").read_bytes() == before
    for words in ("1. Discovery", "2. Comparison", OURS, UNTRAINED, "grid_7x7 (4 worlds)", "chain (2 worlds)", "s.e."):
        assert words in printed
    assert max(len(line.replace(str(small.folder), "runs/quickstart")) for line in printed.splitlines()) <= 120
    estimate = results["rules"]["PPO"]["tasks"]["other_rewards"]["late_return"]["estimate"]
    assert f"{estimate:.2f} [" in printed


def test_discovery_that_was_stopped_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[list[str]] = []

    def stopped(words: list[str]) -> int:
        given.append(words)
        return INTERRUPTED

    monkeypatch.setattr(cli, "main", stopped)
    monkeypatch.chdir(tmp_path)
    assert quickstart.main(["--seed=7"]) == INTERRUPTED
    assert given == [["run", "lpg_small", "--workdir=runs/quickstart/discovery", "--gin.SEED=7"]]
    assert list(tmp_path.iterdir()) == []


def test_failed_discovery_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "main", lambda words: FAILED)
    assert quickstart.main([f"--folder={tmp_path}"]) == FAILED
    assert f"To begin anew, remove {tmp_path / 'discovery'}." in capsys.readouterr().err


CATCH = {"discovery": "disco_catch", "evaluation": "evaluate_disco_catch", "hand_made": ()}


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"hand_made": ("ppo_catch",)}, "'PPO' cannot learn on grid_5x5: .*index"),
        (
            {"of_hand_made": ("NUM_ENVIRONMENTS = 8",)},
            "after 320 environment steps and one of 'PPO' after 160: give both",
        ),
        ({"of_evaluation": ("TRAJECTORY_LSTM_SIZE = 5",)}, "evaluate_lpg_small is another one than that of lpg_small"),
        ({"of_evaluation": ("WORLDS = 6",)}, "6 agents cannot try 9 choices on 4 tasks"),
        (
            {"gin_files": ("scale/tiny.gin",)},
            "macro 'RUN' has no effect: Experiment.weights .* replaced what it was us",
        ),
        (CATCH, "every task of 'discovered rule' is one of the discovery: give it tasks to be tried on"),
        ({"discovery": "ppo_small"}, "ppo_small discovers nothing"),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, dict) else None,
)
def test_what_does_not_fit_is_refused_before_the_discovery(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any], reason: str
) -> None:
    def never(words: list[str]) -> int:
        pytest.fail(f"the discovery began: {words}")

    monkeypatch.setattr(cli, "main", never)
    with pytest.raises(UserError, match=reason):
        Quickstart(tmp_path, **changed).main()
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_the_discovered_rule_is_worth_it(tmp_path: Path, seed: int) -> None:
    """By more than luck above the untrained rule; on unseen grids above tuned A2C, and not below tuned PPO."""
    assert Quickstart(tmp_path, seed).main() == OK
    results = json.loads((tmp_path / "comparison.json").read_text())
    apart = results["differences"]
    assert all(apart[UNTRAINED][task]["standard_errors"] > 3 for task in UNSEEN)
    for task in ("grid_7x7", "other_rewards"):
        ours, a2c = (results["rules"][name]["tasks"][task]["late_return"] for name in (OURS, "A2C"))
        assert ours["low"] > a2c["high"]
        assert apart["PPO"][task]["interval"]["high"] > 0


# --- comparisons


def contender() -> Contender:
    experiment = load("a2c_small", bindings=AGENTS, root=Experiment).experiment
    (group,) = experiment.groups
    groups = (dataclasses.replace(group, agents=3),)
    return Contender("A2C", experiment.rule, {}, groups, {"learning_rate": (5.0, 10.0)})


def test_too_few_agents_for_the_choices() -> None:
    tasks = contender().groups[0].suite.tasks()
    with pytest.raises(UserError, match=r"3 agents cannot try 2 choices on 2 tasks: .* at least 4"):
        Comparison(seen=tuple(tasks[:2]), updates=1, seed=0).learn(contender())


def test_seen_tasks_that_nobody_has() -> None:
    with pytest.raises(UserError, match="no group of 'A2C' has all of the tasks elsewhere: give it one"):
        Comparison(seen=("elsewhere",), updates=1, seed=0).learn(contender())


def test_difference_in_standard_errors() -> None:
    rng = np.random.default_rng(0)
    worlds = rng.normal(0.0, 5.0, 400)
    found = difference(worlds + 1.0 + rng.normal(0.0, 1.0, 400), worlds)
    assert found.standard_errors == pytest.approx(20.0, rel=0.2)
    assert found.interval.low < 1.0 < found.interval.high
    assert found.interval.low > 0.7  # What worlds do to both rules alike is no uncertainty of the difference.
    assert interval(worlds).high - interval(worlds).low > 0.5


def test_learning_curve_leaves_gaps_where_few_episodes_ended() -> None:
    returns, episodes = np.ones((3, 50)), np.ones((3, 50))
    returns[:, 25:], returns[:2, :2], episodes[:2, :2] = 4.0, 0.0, 0.0
    points = learning_curve(Curves(("a",) * 3, returns, episodes), env_steps_per_update=10)
    assert points[0] == [10.0, None, None, None]
    assert points[1] == [30.0, 1.0, 1.0, 1.0]
    assert points[-1] == [490.0, 4.0, 4.0, 4.0]
    assert len(points) == 25


def test_panels_have_bands_and_a_colour_for_each_label(tmp_path: Path) -> None:
    rising = [(float(x), x / 10, x / 10 - 0.5, x / 10 + 0.5) for x in range(50)]
    gaps = [(0.0, None, None, None), *rising[20:]]
    one = Panel(title="one", lines={"a": rising, "b": gaps}, unit="step")
    other = Panel(title="other", lines={"b": [(0, 1.0), (1, None), (2, 3.0)], "c": []}, unit="step", value="score")
    draw_panels(tmp_path / "panels.png", [one, other], title="both")
    picture = imread(tmp_path / "panels.png")[..., :3]
    height, width, _ = picture.shape
    assert width > 2 * height
    blue, orange = (np.array([0x00, 0x72, 0xB2]) / 255, np.array([0xD5, 0x5E, 0x00]) / 255)
    left, right = picture[:, : width // 2], picture[:, width // 2 :]

    def drawn(part: np.ndarray, color: np.ndarray, opacity: float = 1.0) -> bool:
        shade = opacity * color + 1.0 - opacity
        return bool((np.abs(part - shade).max(-1) < 0.01).any())

    assert drawn(left, blue)
    assert drawn(left, blue, 0.18)
    assert drawn(left, orange)
    assert drawn(right, orange)
    assert not drawn(right, blue)
