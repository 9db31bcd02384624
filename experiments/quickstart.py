"""``make quickstart``: discovers an update rule in minutes, then shows what it is worth beside PPO and A2C.

The same can be done with longer discoveries: ``python -m experiments.quickstart --help``.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments import cli
from framework.errors import UserError
from framework.exit_status import FAILED, INTERRUPTED, OK

if TYPE_CHECKING:
    from experiments.comparison import Comparison, Contender
    from framework.experiment import Experiment
    from framework.group import Group
    from framework.interfaces import Weights

OURS, UNTRAINED = "discovered rule", "untrained rule"


@dataclasses.dataclass(frozen=True)
class Quickstart:
    """A discovery in a run folder, and a comparison of what it found with hand-made rules.

    Attributes:
      folder: of the results; the discovery's run folder is inside.
      seed: of all randomness.
      discovery: config of the discovery, whose bandit says which hyperparameters there are to choose from.
      evaluation: config of agents that use what it found, in the folder that its macro RUN names.
      hand_made: configs of the rules to compare with.
      gin_files: more gin files, read after discovery and evaluation.
      of_discovery, of_evaluation, of_hand_made: bindings on top of these configs.
    """

    folder: Path
    seed: int = 0
    discovery: str = "lpg_small"
    evaluation: str = "evaluate_lpg_small"
    hand_made: tuple[str, ...] = ("ppo_small", "a2c_small")
    gin_files: tuple[str, ...] = ()
    of_discovery: tuple[str, ...] = ()
    of_evaluation: tuple[str, ...] = ()
    of_hand_made: tuple[str, ...] = ()

    @property
    def run(self) -> Path:
        """The run folder of the discovery."""
        return self.folder / "discovery"

    def main(self) -> int:
        """Discovers, compares, prints and draws; the discovery's exit status where it did not finish."""
        begin = time.monotonic()
        print(
            "1. Discovery: agents learn by a rule that begins at random, and the rule learns from them.\n"
            "   Stop it when you like; the same command goes on where it was.\n",
            flush=True,
        )
        comparison, contenders, weights = self._prepare()
        if (status := self._discover()) != OK:
            return status
        results = self._compare(comparison, contenders, weights)
        _write(self.folder / "comparison.json", results)
        _draw(self.folder / "quickstart.png", results, self.run)
        print(_report(results))
        print(
            f"\nThis took {(time.monotonic() - begin) / 60:.1f} minutes. The rule is in {self.run}, all numbers in "
            f"{self.folder / 'comparison.json'},\nthe picture in {self.folder / 'quickstart.png'}."
        )
        return OK

    def _discover(self) -> int:
        words = ["run", self.discovery, f"--workdir={self.run}", f"--gin.SEED={self.seed}"]
        words += [f"--gin_file={file}" for file in self.gin_files]
        print(f"$ rulespace {' '.join(words)}", flush=True)
        status = cli.main([*words, *(f"--gin_bindings={binding}" for binding in self.of_discovery)])
        if status == FAILED:
            print(f"The discovery failed. To begin anew, remove {self.run}.", file=sys.stderr)
        return status

    def _prepare(self) -> tuple[Comparison, list[Contender], Weights]:
        """The comparison, its contenders, and where the rule will be found of ours, which is still untrained.

        What does not fit is refused here, before the discovery.
        """
        # Not at the top: the first line shall not wait for jax.
        import jax

        from experiments.comparison import Comparison, Contender
        from framework import keys
        from framework.train import Trainer

        discovery = _load(self.discovery, (*self.of_discovery, f"SEED = {self.seed}"), self.gin_files)
        evaluation = _load(self.evaluation, (*self.of_evaluation, f"RUN = '{self.run}'"), self.gin_files)
        if discovery.discovery is None:
            raise UserError(
                f"{self.discovery} discovers nothing: name an experiment with a discovery, such as lpg_small"
            )
        found, used = (Trainer(experiment).meta_params_shapes() for experiment in (discovery, evaluation))
        if found != used:
            raise UserError(
                f"the meta-network of {self.evaluation} is another one than that of {self.discovery}: give both the "
                "same rule"
            )
        key = keys.role_key(keys.root_key(self.seed), keys.Role.META_PARAMS)
        initial = jax.jit(Trainer(discovery).initial_meta_params)(key)
        arms = _arms(self.discovery, discovery)
        contenders = [Contender(OURS, evaluation.rule, initial, evaluation.groups, arms)]
        for config in self.hand_made:
            experiment = _load(config, self.of_hand_made)
            own = _only_group(config, experiment)
            groups = tuple(
                dataclasses.replace(own, suite=group.suite, agents=group.agents, chunk=group.chunk)
                for group in evaluation.groups
            )
            contenders.append(Contender(_label(config), experiment.rule, {}, groups, _arms(config, experiment)))
        contenders.append(Contender(UNTRAINED, evaluation.rule, initial, evaluation.groups, arms))
        names = [contender.name for contender in contenders]
        if len(set(names)) < len(names):
            raise UserError(f"two rules would have one name ({', '.join(names)}): compare with others")
        seen = tuple(task for group in discovery.groups for task in group.suite.tasks())
        comparison = Comparison(seen=seen, updates=evaluation.steps, seed=self.seed)
        comparison.refuse_what_does_not_fit(contenders)
        return comparison, contenders, evaluation.weights

    def _compare(self, comparison: Comparison, contenders: Sequence[Contender], weights: Weights) -> dict[str, Any]:
        from experiments.comparison import as_json

        print(
            f"\n2. Comparison: fresh agents learn for {comparison.updates} updates in worlds that the rule never saw.\n"
            "   Learning rates are chosen on the tasks of the discovery, for each rule from as many values.\n",
            flush=True,
        )
        ours, *others = contenders
        discovered = weights(ours.meta_params)
        learned = {}
        for contender in (dataclasses.replace(ours, meta_params=discovered), *others):
            begin = time.monotonic()
            learned[contender.name] = comparison.learn(contender)
            chosen = ", ".join(f"{name} {value:g}" for name, value in learned[contender.name].chosen.items())
            print(f"   {contender.name:<16} {chosen} ({time.monotonic() - begin:.0f} s)", flush=True)
        return {"seed": self.seed, "seen": comparison.seen} | as_json(comparison, learned, ours=OURS)


def _load(config: str, bindings: Sequence[str], gin_files: Sequence[str] = ()) -> Experiment:
    from framework.config import load
    from framework.experiment import Experiment

    importlib.import_module("components.everything")  # Registers what configs can name.
    experiment: Experiment = load(config, gin_files=gin_files, bindings=bindings, root=Experiment).experiment
    return experiment


def _only_group(config: str, experiment: Experiment) -> Group:
    if len(experiment.groups) > 1:
        count = len(experiment.groups)
        raise UserError(
            f"{config} has {count} groups, and agents of one kind are compared: name a config with one group"
        )
    return experiment.groups[0]


def _arms(config: str, experiment: Experiment) -> Mapping[str, Sequence[float]]:
    """What the bandit of an experiment's only group chooses from."""
    bandit = _only_group(config, experiment).bandit
    return {} if bandit is None else bandit.arms()


def _label(config: str) -> str:
    """What tables call a hand-made rule: ``PPO`` for ``ppo_small``."""
    return Path(config).stem.partition("_")[0].upper()


def _write(path: Path, results: Mapping[str, Any]) -> None:
    from framework.runs.storage import disk_errors, strict_json, write_atomically

    with disk_errors(f"write {path}", "--folder"):
        write_atomically(path, strict_json(results, indent=1).encode())


def _draw(path: Path, results: Mapping[str, Any], run: Path) -> None:
    """Draws how the rule was discovered and, for each unseen task, how agents learn with each rule."""
    from framework.runs.curves import Panel, draw_panels
    from framework.runs.metrics import read_metrics

    points = read_metrics(run)
    by_task = {task: [(p["step"], p[f"return/{task}"]) for p in points] for task in results["seen"]}
    panels = [Panel(title="Discovery: agents of all ages, by task", lines=by_task, unit="meta-step")]
    rules = results["rules"]
    for task in next(iter(rules.values()))["tasks"]:
        lines = {name: rule["tasks"][task]["curve"] for name, rule in rules.items()}
        panels.append(Panel(title=f"Learning on {task}, never seen before", lines=lines, unit="environment steps"))
    draw_panels(path, panels, title="An update rule is discovered, and used", option="--folder")


def _report(results: Mapping[str, Any]) -> str:
    """The tables that are printed."""
    rules, differences = results["rules"], results["differences"]
    tasks = next(iter(rules.values()))["tasks"]
    heads = [f"{task} ({len(found['late_returns'])} worlds)" for task, found in tasks.items()]

    def of_rules(measure: str) -> list[list[str]]:
        return [[name, *(_interval(rule["tasks"][task][measure]) for task in tasks)] for name, rule in rules.items()]

    apart = [
        [
            name,
            *(
                f"{_interval(found[task]['interval'], '+')}, {_errors(found[task]['standard_errors'])}"
                for task in tasks
            ),
        ]
        for name, found in differences.items()
    ]
    return "\n".join([
        f"\nReturn per episode in the last tenth of {results['updates']} updates (interquartile mean, 95 % interval)\n",
        *_table(["", *heads], of_rules("late_return")),
        "\nArea under the learning curve, as a return per episode\n",
        *_table(["", *heads], of_rules("mean_return")),
        "\nBy how much the discovered rule's return in the last tenth is higher, in the same worlds: interquartile\n"
        "means, and the mean difference in its standard errors\n",
        *_table(["than", *heads], apart),
    ])  # fmt: skip


def _errors(found: float | None) -> str:
    return "no spread" if found is None else f"{found:.0f} s.e."


def _interval(found: Mapping[str, float], sign: str = "") -> str:
    return f"{found['estimate']:{sign}.2f} [{found['low']:{sign}.2f}, {found['high']:{sign}.2f}]"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table whose columns are as wide as what is in them."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return [
        "   " + "   ".join(f"{cell:<{n}}" for cell, n in zip(row, widths, strict=True)).rstrip()
        for row in (head, *rows)
    ]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.quickstart", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--seed", type=int, default=0, help="of all randomness")
    parser.add_argument("--folder", type=Path, default=Path("runs") / "quickstart", help="of the results")
    parser.add_argument("--discovery", default=Quickstart.discovery, help="config of the discovery")
    parser.add_argument("--evaluation", default=Quickstart.evaluation, help="config of agents that use what it found")
    parser.add_argument(
        "--beside", nargs="*", default=Quickstart.hand_made, metavar="CONFIG", help="configs to compare with"
    )
    parser.add_argument(
        "--gin_file", action="append", default=[], metavar="F", help="one more gin file for discovery and evaluation"
    )
    options = parser.parse_args(argv)
    try:
        names = options.discovery, options.evaluation, tuple(options.beside)
        return Quickstart(options.folder, options.seed, *names, gin_files=tuple(options.gin_file)).main()
    except UserError as error:
        print(error, file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("quickstart: interrupted; the same command goes on", file=sys.stderr)
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
