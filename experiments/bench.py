"""The verb ``bench``: times one part of the framework in figures that compare between machines."""

from __future__ import annotations

import dataclasses
import json
import re
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from absl import flags

from components.replays import OnPolicy as Fresh
from experiments.bench_actor import bench_actor
from experiments.loading import load_config, load_experiment
from framework import config, keys
from framework.cost import count_flops
from framework.errors import UserError, closest, did_you_mean
from framework.experiment import Experiment
from framework.lifecycle import Lifecycle
from framework.meta_step import MetaStep
from framework.train import Trainer
from framework.types import Place

MATMUL_SIZE = 2048
SIZES = {
    "inner_updates": "Agent updates that a meta-gradient reaches through.",
    "batch": "Trajectories an update learns from, and environments that act.",
    "steps": "Steps of a trajectory.",
    "agents": "Agents of the population.",
}
TAKES = {
    "learner": ("batch", "steps"),
    "meta_gradient": ("batch", "steps", "inner_updates"),
    "lpg": ("batch", "steps", "agents"),
    "actor": ("batch", "steps"),
}
"""Which sizes a benchmark can be given."""

REPETITIONS = 15


def define_flags(options: flags.FlagValues) -> None:
    flags.DEFINE_enum("format", "text", ["text", "json"], "How to print.", flag_values=options)
    flags.DEFINE_string("config", None, "The experiment whose part is timed.", flag_values=options)
    flags.DEFINE_string("suite", None, "For actor: the suite, a file of gin/suites, instead.", flag_values=options)
    for name, meaning in SIZES.items():
        flags.DEFINE_integer(name, None, meaning, lower_bound=1, flag_values=options)
    flags.DEFINE_integer("repetitions", REPETITIONS, "Timed runs.", lower_bound=1, flag_values=options)


def main(arguments: Sequence[str], options: flags.FlagValues) -> int:
    """Times a part and prints its figures."""
    what = arguments[0]
    if what not in BENCHMARKS:
        guess = did_you_mean(closest(what, BENCHMARKS)) or f" There is: {', '.join(BENCHMARKS)}."
        raise UserError(f"there is no benchmark '{what}'.{guess}")
    for size in SIZES:
        if getattr(options, size) is not None and size not in TAKES[what]:
            takes = ", ".join(f"--{name}" for name in TAKES[what])
            raise UserError(f"the benchmark '{what}' knows no --{size}: it takes {takes}")
    if options.suite and what != "actor":
        raise UserError(f"the benchmark '{what}' knows no --suite: name an experiment on it, by --config")
    figures = BENCHMARKS[what](options)
    if options.format == "json":
        print(json.dumps(figures))
    else:
        width = max(map(len, figures))
        print("\n".join(f"{name:<{width}}  {_readable(value)}" for name, value in figures.items()))
    return 0


def _readable(value: Any) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else str(value)


@dataclasses.dataclass(frozen=True)
class Timing:
    """Median seconds of a run and of the matrix product that was timed in turn with it."""

    seconds: float
    matmul_seconds: float

    @property
    def matmul_gflops(self) -> float:
        """Speed of the matrix product, in 1e9 floating point operations per second."""
        return 2 * MATMUL_SIZE**3 / self.matmul_seconds / 1e9

    @property
    def work_gflop(self) -> float:
        """What the machine could have multiplied in that time: comparable between machines."""
        return self.seconds * self.matmul_gflops


def timed(run: Callable[[], Any], repetitions: int) -> Timing:
    """Times a function in turn with a float32 matrix product, so that both see the same machine."""
    product = jax.jit(jnp.matmul)
    operand = jax.random.normal(jax.random.key(0), (MATMUL_SIZE, MATMUL_SIZE))

    def seconds(function: Callable[[], Any]) -> float:
        begin = time.perf_counter()
        jax.block_until_ready(function())
        return time.perf_counter() - begin

    for function in (run, lambda: product(operand, operand)):
        seconds(function)
    pairs = [(seconds(run), seconds(lambda: product(operand, operand))) for _ in range(repetitions)]
    runs, products = zip(*pairs, strict=True)
    return Timing(statistics.median(runs), statistics.median(products))


def bench_learner(options: flags.FlagValues) -> dict[str, Any]:
    """One agent update on a batch of the experiment's size, with random meta-parameters: they cost the same."""
    experiment = load_experiment(options.config or "disco103_catch", options).experiment
    group = _resized(experiment, options).groups[0]
    lifecycle = Lifecycle(experiment.rule, group)
    key = jax.random.key(0)
    learner, trajectory = jax.jit(lifecycle.newborn_and_trajectory)(key)
    meta_params = jax.jit(Trainer(experiment).initial_meta_params)(key)

    update = jax.jit(lifecycle.learner.update, donate_argnums=1)
    compiled = Compiled.of(update, meta_params, learner, trajectory, key)
    state = learner

    def run() -> Any:
        nonlocal state
        state, _ = compiled(meta_params, state, trajectory, key)
        return state

    return compiled.figures("learner", run, options) | _sizes(lifecycle, state.params, meta_params)


def bench_meta_gradient(options: flags.FlagValues) -> dict[str, Any]:
    """One agent's meta-gradient through N updates that were collected before, with random meta-parameters."""
    experiment = load_experiment(options.config or "disco_catch", options).experiment
    if experiment.discovery is None:
        raise UserError(f"{options.config} discovers nothing: name an experiment with a discovery, such as disco_catch")
    updates = options.inner_updates or 20
    discovery = dataclasses.replace(experiment.discovery, inner_updates=updates, stride=None)
    group = dataclasses.replace(_resized(experiment, options).groups[0], agents=1, chunk=None)
    lifecycle = Lifecycle(experiment.rule, group, discovery)
    key = jax.random.key(0)
    meta_params = jax.jit(Trainer(experiment).initial_meta_params)(key)
    root, zero = keys.root_key(0), jnp.zeros((), jnp.int32)
    place = Place(task_index=zero, arm=zero, births=zero, share=jnp.ones(()))
    agent = jax.jit(lifecycle.birth)(key, place)
    meta_step = MetaStep(lifecycle)
    after, collected, _ = jax.jit(meta_step.collect)(meta_params, agent, root, zero)
    given = (collected.start, collected.experience, collected.validation, after.objective)
    gradient = jax.jit(jax.value_and_grad(meta_step.loss, has_aux=True))
    compiled = Compiled.of(gradient, meta_params, *given)
    figures = compiled.figures("meta_gradient", lambda: compiled(meta_params, *given), options)
    return figures | {"inner_updates": updates} | _sizes(lifecycle, agent.learner.params, meta_params)


def bench_lpg(options: flags.FlagValues) -> dict[str, Any]:
    """A whole meta-step of LPG: 16 agents collect K = 5 updates of 64 environments x 20 steps, and differentiate."""
    experiment = load_experiment(options.config or "lpg_gridworlds", options).experiment
    sized = _resized(experiment, options)
    group = sized.groups[0]
    if options.agents:
        group = dataclasses.replace(group, agents=options.agents, chunk=None)
    trainer = Trainer(dataclasses.replace(sized, groups=(group,), held_out=None))
    state = trainer.init()
    one = jnp.ones((), jnp.int32)
    compiled = Compiled.of(trainer.program, state, one)

    def run() -> Any:
        nonlocal state
        state = compiled(state, one)
        return state

    lifecycle = trainer.lifecycles[0]
    params = jax.tree.map(lambda x: x[0], state.groups[0].agents.learner.params)
    figures = compiled.figures("lpg", run, options) | {"agents": group.agents}
    if sized.discovery is not None:
        figures |= {"inner_updates": sized.discovery.inner_updates, "new_updates": sized.discovery.new_updates}
    return figures | _sizes(lifecycle, params, state.meta_params)


def bench_actor_of(options: flags.FlagValues) -> dict[str, Any]:
    """Random actions in the environments of an experiment's first group."""
    if options.suite and options.config:
        raise UserError("--suite and --config both name environments: give one of the two")
    name = _config_on(options.suite) if options.suite else options.config or "disco103_atari"
    group = load_config(name, options).experiment.groups[0]
    return bench_actor(group, size=options.batch, steps=options.steps, repetitions=options.repetitions)


def _config_on(suite: str) -> str:
    """The first shipped experiment on a suite, by the name of its gin file."""
    files = sorted((config.shipped_gin_folder() / "experiments").glob("*.gin"))
    of_suites: dict[str, str] = {}
    for file in files:
        for included in re.findall(r"^include 'suites/(.+)\.gin'$", file.read_text(), re.MULTILINE):
            of_suites.setdefault(included, file.stem)
    if suite not in of_suites:
        guess = did_you_mean(closest(suite, of_suites)) or f" There is: {', '.join(sorted(of_suites))}."
        raise UserError(f"no shipped experiment is on a suite '{suite}'.{guess} Others are timed by --config")
    return of_suites[suite]


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A compiled program, and what compiling it told."""

    program: Any
    flops: int
    seconds: float

    @classmethod
    def of(cls, jitted: Any, *arguments: Any) -> Compiled:
        """Compiles a jitted function for the given arguments."""
        traced = jitted.trace(*arguments)
        begin = time.perf_counter()
        program = traced.lower().compile()
        return cls(program, count_flops(traced.jaxpr.jaxpr), time.perf_counter() - begin)

    def __call__(self, *arguments: Any) -> Any:
        return self.program(*arguments)

    def figures(self, what: str, run: Callable[[], Any], options: flags.FlagValues) -> dict[str, Any]:
        """What every benchmark tells."""
        timing = timed(run, options.repetitions)
        return {
            "what": what,
            "seconds": timing.seconds,
            "matmul_gflops": timing.matmul_gflops,
            "work_gflop": timing.work_gflop,
            "compile_seconds": self.seconds,
            "temp_megabytes": self.program.memory_analysis().temp_size_in_bytes / 1e6,
            "flops": self.flops,
            "device": jax.devices()[0].device_kind,
        }


def _resized(experiment: Experiment, options: flags.FlagValues) -> Experiment:
    """The experiment with groups that learn on-policy from batches of the size asked for, all of them fresh."""
    group = experiment.groups[0]
    if Lifecycle(experiment.rule, group).on_host:
        tasks = ", ".join(group.suite.tasks())
        raise UserError(f"only environments on the device are timed, and those of {tasks} are outside it: name others")
    batch = options.batch or group.replay.batch(group.num_environments)
    steps = options.steps or group.trajectory_length
    group = dataclasses.replace(group, num_environments=batch, trajectory_length=steps, replay=Fresh(), minibatches=1)
    return dataclasses.replace(experiment, groups=(group,))


def _sizes(lifecycle: Lifecycle, params: Any, meta_params: Any) -> dict[str, Any]:
    return {
        "batch": lifecycle.group.num_environments,
        "steps": lifecycle.group.trajectory_length,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "meta_parameters": sum(leaf.size for leaf in jax.tree.leaves(meta_params)),
    }


BENCHMARKS: dict[str, Callable[[flags.FlagValues], dict[str, Any]]] = {
    "learner": bench_learner,
    "meta_gradient": bench_meta_gradient,
    "lpg": bench_lpg,
    "actor": bench_actor_of,
}
