"""The tables of the papers, each declared once.

Numbers are read from `experiments.published`; what a paper does not print, or we do not hold, has no number here.
"""

from __future__ import annotations

from collections.abc import Mapping

from components.streams.crafter import ACHIEVEMENT_NUMBERS, crafter_score
from experiments import published
from experiments.run_records import RunRecord
from experiments.tables.definitions import Aggregate, Measure, Normalization, PublishedColumn, Table, Variant
from framework.aggregates import interquartile_mean, mean, median
from framework.runs.metrics import read_metrics

DISCO = "Oh et al., Nature 648, 2025, doi:10.1038/s41586-025-09761-x"
LPG = "Oh et al., NeurIPS 2020, arXiv:2007.08794"

_ENVIRONMENT_STEPS = published.row("hyperparameters", "environment_steps")
_FRAMES_OF_A_STEP = 4
ATARI_STEPS = _ENVIRONMENT_STEPS["atari"] / _FRAMES_OF_A_STEP
DMLAB_STEPS = _ENVIRONMENT_STEPS["dmlab30"] / _FRAMES_OF_A_STEP
PROCGEN_STEPS = _ENVIRONMENT_STEPS["procgen"]
CRAFTER_STEPS = _ENVIRONMENT_STEPS["crafter"]
NETHACK_STEPS = _ENVIRONMENT_STEPS["nethack"]
SOKOBAN_STEPS = _ENVIRONMENT_STEPS["sokoban"]
CRAFTER_SCORE_STEPS = 1e6
"""Training steps whose episodes the score of Crafter is about (Hafner, 2022)."""

_LABELS = {
    "impala": "IMPALA", "stacx": "STACX", "muesli": "Muesli", "muzero": "MuZero", "dreamer": "Dreamer", "ppo": "PPO",
    "ppg": "PPG", "rainbow": "Rainbow", "random": "random", "human": "human", "disco57": "Disco57",
    "disco103": "Disco103",
}  # fmt: skip
_LAST_LEADER = "_leaderboard_"
_UNLIMITED = "as quoted by the paper; may stem from training on unlimited levels, where ours trains on 500"
_QUOTED = "as quoted by the paper, run by others: protocols may differ"
_SEEDS = "Published columns are means; the seeds behind them are not published, so they have no interval."

ATARI = published.columns("atari57")
PROCGEN = published.columns("procgen")
DMLAB = published.columns("dmlab30")


def _columns(
    scores: Mapping[str, Mapping[str, float]], env_steps: float, footnotes: Mapping[str, str]
) -> tuple[PublishedColumn, ...]:
    """Columns of a file of tasks; those of Disco57 and Disco103 took the table's own number of steps."""
    return tuple(
        PublishedColumn(
            label=_LABELS[agent],
            scores=of_agent,
            env_steps=env_steps if agent.startswith("disco") else None,
            footnotes=(footnotes[agent],) if agent in footnotes else (),
        )
        for agent, of_agent in scores.items()
    )


def _not_held(*labels: str) -> tuple[PublishedColumn, ...]:
    return tuple(PublishedColumn(label, {}) for label in labels)


HUMAN_NORMALIZED = Normalization("human-normalized score", low=ATARI["random"], high=ATARI["human"])
"""As the Atari literature has it, with the constants that the paper prints."""

_IQM = Aggregate("IQM", interquartile_mean)
_ATARI_AGGREGATES = (_IQM, Aggregate("median", median), Aggregate("mean", mean))
_ATARI_FOOTNOTES = (
    "Aggregates are of human-normalized scores, (score - random) / (human - random). IQM: of n scores the int(0.25 n) "
    "lowest and highest are left out. Median: over games, of the mean over seeds.",
    "The paper's headline IQM of 13.86 is over seeds, which are not published: its per-game means give the IQM here.",
    "Ours: sticky actions drawn for each frame, 18 actions, no no-ops, 108,000 frames an episode; the paper's choice "
    "among these is not stated. A step is 4 frames: 200 M frames are 50 M steps.",
)

ATARI57 = Table(
    name="atari57",
    title="Scores on the 57 Atari games",
    source=f"{DISCO}, extended data",
    tasks=tuple(ATARI["human"]),
    value="mean episode return",
    published=_columns(ATARI, ATARI_STEPS, dict.fromkeys(("impala", "stacx", "muesli", "muzero", "dreamer"), _QUOTED)),
    normalization=HUMAN_NORMALIZED,
    aggregates=_ATARI_AGGREGATES,
    env_steps=ATARI_STEPS,
    experiments=("disco103_atari",),
    sweep="table_atari57",
    task_macros=("GAME", "GAMES"),
    footnotes=(*_ATARI_FOOTNOTES, _SEEDS),
)

PROCGEN16 = Table(
    name="procgen",
    title="Returns on the 16 games of ProcGen, hard mode",
    source=f"{DISCO}, extended data",
    tasks=tuple(PROCGEN["human"]),
    value="mean episode return",
    published=_columns(PROCGEN, PROCGEN_STEPS, dict.fromkeys(("ppo", "ppg", "dreamer"), _UNLIMITED)),
    published_digits=2,
    normalization=Normalization("normalized return", low=PROCGEN["random"], high=PROCGEN["human"]),
    aggregates=(Aggregate("mean", mean),),
    digits=3,
    env_steps=PROCGEN_STEPS,
    experiments=("disco103_procgen",),
    sweep="table_procgen",
    task_macros=("GAME", "GAMES"),
    footnotes=(
        "The aggregate is of normalized returns, (return - R_min) / (R_max - R_min); `random` and `human` are hard "
        "mode's R_min and R_max (Cobbe et al., 2020): they are no scores of agents.",
        "Ours: trained on levels 0 to 499. Returns are on the levels that a run was given: on the 1,000 test levels "
        "with suites/procgen_test.gin.",
        _SEEDS,
    ),
)

DMLAB30 = Table(
    name="dmlab30",
    title="Scores on the 30 tasks of DMLab-30",
    source=f"{DISCO}, extended data",
    tasks=tuple(DMLAB["human"]),
    value="mean episode return",
    published=_columns(DMLAB, DMLAB_STEPS, {"impala": _QUOTED}),
    published_digits=2,
    normalization=Normalization("capped human-normalized score", DMLAB["random"], DMLAB["human"], cap=1.0),
    aggregates=(Aggregate("mean, capped", mean),),
    digits=3,
    env_steps=DMLAB_STEPS,
    experiments=("disco103_dmlab30",),
    sweep="table_dmlab30",
    task_macros=("LEVEL", "LEVELS"),
    footnotes=(
        "The aggregate is the mean of human-normalized scores, each capped at 1. The paper's 1 G environment steps are "
        "read as frames, 4 to a step.",
        "Runs need the package deepmind_lab, which has to be built.",
        _SEEDS,
    ),
)


def _crafter_columns() -> tuple[PublishedColumn, ...]:
    return tuple(
        PublishedColumn(
            label=_LABELS[row["agent"]],
            scores={"crafter": float(row["return"])},
            env_steps=1e6 * float(row["env_steps_millions"]) if row["env_steps_millions"] else None,
            footnotes=(_QUOTED,) if row["agent"] in ("ppo", "rainbow", "dreamer") else (),
        )
        for row in published.rows("crafter")
    )


def achievements_score(run: RunRecord) -> float | None:
    """The score of Crafter in percent, of the training episodes that ended in the first 1 M steps of each agent."""
    shares, episodes = dict.fromkeys(ACHIEVEMENT_NUMBERS, 0.0), 0.0
    for point in read_metrics(run.folder):
        if point["env_steps"] / run.agents > CRAFTER_SCORE_STEPS or not (ended := point.get("episode/completed")):
            continue
        reached = [point.get(name) for name in ACHIEVEMENT_NUMBERS]
        if None in reached:
            return None
        episodes += ended
        for name, share in zip(ACHIEVEMENT_NUMBERS, reached, strict=True):
            shares[name] += ended * share
    return crafter_score([share / episodes for share in shares.values()]) if episodes else None


CRAFTER = Table(
    name="crafter",
    title="Returns on Crafter",
    source=f"{DISCO}, extended data",
    tasks=("crafter",),
    value="mean episode return",
    published=_crafter_columns(),
    published_digits=2,
    env_steps=CRAFTER_STEPS,
    experiments=("disco103_crafter",),
    sweep="table_crafter",
    measures=(Measure("score, %", achievements_score),),
    agents_are_rows=True,
    footnotes=(
        "Published rows are returns; the score of achievements, exp(mean ln(1 + s)) - 1 over the success rates s of "
        "the 22 achievements in percent, in training episodes of the first 1 M steps (Hafner, 2022), is told of our "
        "runs alone.",
        _SEEDS,
    ),
)


def _nethack_columns() -> tuple[PublishedColumn, ...]:
    return tuple(
        PublishedColumn(
            label=_leader(row["agent"]),
            scores={"nethack_challenge": float(row["mean_score"])},
            env_steps=NETHACK_STEPS if row["agent"].startswith("disco") else None,
            footnotes=() if row["agent"].startswith("disco") else (_QUOTED,),
        )
        for row in published.rows("nethack")
    )


def _leader(agent: str) -> str:
    team, leaderboard, rank = agent.partition(_LAST_LEADER)
    name = _LABELS.get(team, team.removeprefix("team_").replace("_", " "))
    return f"{name} (leaderboard's {rank})" if leaderboard else name


NETHACK = Table(
    name="nethack",
    title="Mean scores on NetHack",
    source=f"{DISCO}, extended data",
    tasks=("nethack_challenge", "nethack_score"),
    value="mean score",
    published=_nethack_columns(),
    published_digits=2,
    env_steps=NETHACK_STEPS,
    experiments=("disco103_nethack",),
    sweep="table_nethack",
    agents_are_rows=True,
    footnotes=(
        "The leaderboard's rank is by another number than the mean score: ranks do not follow from this table.",
        "nethack_challenge: 121 actions, random roles (Hambro et al., 2022). nethack_score: 23 actions, 5,000 steps an "
        "episode (Küttler et al., 2020), a task of its own: its numbers are not comparable with the published ones.",
        _SEEDS,
    ),
)

SOLVED = "sokoban/solved"
"""Name of the number that the suite measures of episodes; its module would load JAX."""


def solved_percent(run: RunRecord) -> float | None:
    """How many of the training episodes were solved, in percent, where the run last tells of any."""
    told = [point[SOLVED] for point in read_metrics(run.folder) if point.get("episode/completed") and SOLVED in point]
    return 100.0 * told[-1] if told else None


SOKOBAN = Table(
    name="sokoban",
    title="Returns on Sokoban",
    source=DISCO,
    tasks=("sokoban_train", "sokoban_test"),
    value="mean episode return",
    published=_not_held("Disco57", "Disco103", "MuZero"),
    env_steps=SOKOBAN_STEPS,
    experiments=("disco103_sokoban",),
    sweep="table_sokoban",
    measures=(Measure("solved at the end, %", solved_percent),),
    agents_are_rows=True,
    footnotes=(
        "The paper's numbers on Sokoban are not held.",
        "Our own generator makes the levels, which are not Boxoban's: 10 x 10 cells, 4 boxes, 120 steps. The return "
        "counts -0.1 a step, 1 for a box that comes onto a target, -1 for one that leaves it, 10 for all boxes.",
    ),
)

_DISCOVERED_FOOTNOTES = (
    "Every rule is evaluated as Disco103 is on Atari, with the benchmark's hyperparameters.",
    *_ATARI_FOOTNOTES[:1],
)

ABLATIONS = Table(
    name="ablations",
    title="Rules discovered with a part of the search space left out, on the 57 Atari games",
    source=f"{DISCO}, ablations",
    tasks=ATARI57.tasks,
    value="mean episode return",
    published=_not_held("as published"),
    normalization=HUMAN_NORMALIZED,
    aggregates=_ATARI_AGGREGATES,
    env_steps=ATARI_STEPS,
    experiments=("evaluate_disco_atari",),
    only=True,
    sweep="table_ablations",
    before="discover_ablations",
    task_macros=("GAME", "GAMES"),
    agents_are_rows=True,
    variants=(
        Variant("Disco57", "disco57"),
        Variant("without y and z", "disco57", ("meta/disco_no_predictions.gin",)),
        Variant("without bootstrapping", "disco57", ("rules/disco_no_bootstrap.gin",)),
        Variant("without p", "disco57", ("rules/disco_no_p.gin",)),
        Variant("without q", "disco57", ("rules/disco_no_q.gin",)),
        Variant("discovered by small agents", "disco57", ("agents/small_networks.gin",)),
        Variant("discovered on 57 grid worlds", "disco57", ("suites/gridworlds57.gin",)),
    ),
    relative=_IQM,
    footnotes=(
        "The paper's numbers of the ablations are not held.",
        "Relative: a rule's IQM over that of Disco57's, less 1, on the games that both were run on; no number where "
        "Disco57's is not positive.",
        *_DISCOVERED_FOOTNOTES,
    ),
)

SCALING = Table(
    name="scaling",
    title="Rules discovered from ever more environments, on ProcGen",
    source=f"{DISCO}, scaling",
    tasks=PROCGEN16.tasks,
    value="mean episode return",
    published=_not_held("as published"),
    normalization=PROCGEN16.normalization,
    aggregates=PROCGEN16.aggregates,
    digits=PROCGEN16.digits,
    env_steps=PROCGEN_STEPS,
    experiments=("evaluate_disco_procgen",),
    only=True,
    sweep="table_scaling",
    before="discover_scaling",
    task_macros=("GAME", "GAMES"),
    agents_are_rows=True,
    variants=(
        Variant("10 environments (Atari)", "disco57", ("suites/atari10.gin",)),
        Variant("57 environments (Atari)", "disco57"),
        Variant("103 environments (Atari, ProcGen, DMLab-30)", "disco103"),
    ),
    footnotes=(
        "The paper's numbers of this figure are not held. Which ten games is not stated: see suites/atari10.gin.",
        "The rule of 103 environments was discovered on ProcGen, too.",
        *PROCGEN16.footnotes[:1],
    ),
)

LPG_ATARI = Table(
    name="lpg_atari",
    title="Scores on the 57 Atari games of a rule that LPG discovered on toy environments",
    source=f"{LPG}, Figures 8 and 9",
    tasks=ATARI57.tasks,
    value="mean episode return",
    published=_not_held("LPG", "A2C"),
    normalization=HUMAN_NORMALIZED,
    aggregates=_ATARI_AGGREGATES,
    experiments=("evaluate_lpg_atari", "a2c_atari"),
    only=True,
    sweep="table_lpg_atari",
    before="discover_lpg",
    beside="table_lpg_atari_a2c",
    task_macros=("GAME", "GAMES"),
    footnotes=("The paper shows curves, whose numbers are not held.", *_ATARI_FOOTNOTES[:1]),
)

_TOYS = {
    "tabular": ("dense", "sparse", "long_horizon", "longer_horizon", "long_dense"),
    "random": ("dense", "long_horizon", "small", "small_sparse", "very_dense"),
    "chain": ("short", "short_noisy", "long", "long_noisy", "distractor"),
}

LPG_TOY = Table(
    name="lpg_toy",
    title="Returns on the toy environments of LPG",
    source=LPG,
    tasks=tuple(f"{kind}_{name}" for kind, names in _TOYS.items() for name in names),
    value="mean episode return",
    published=_not_held("LPG", "A2C"),
    experiments=("evaluate_lpg_toy", "a2c_toy"),
    sweep="table_lpg_toy",
    before="discover_lpg",
    beside="table_lpg_toy_a2c",
    footnotes=("The paper shows curves, whose numbers are not held.",),
)

TABLES: Mapping[str, Table] = {
    table.name: table
    for table in (
        *(ATARI57, PROCGEN16, DMLAB30, CRAFTER, NETHACK, SOKOBAN),
        *(ABLATIONS, SCALING, LPG_ATARI, LPG_TOY),
    )
}
"""All tables by name."""
