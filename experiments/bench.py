"""The verb ``bench``: times one part of the framework in figures that compare between machines."""

from __future__ import annotations

import dataclasses
import json
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from absl import flags

from experiments.loading import load_experiment
from framework.cost import count_flops
from framework.errors import UserError, closest, did_you_mean
from framework.train import Trainer

MATMUL_SIZE = 2048
REPETITIONS = 15


def define_flags(options: flags.FlagValues) -> None:
    flags.DEFINE_enum("format", "text", ["text", "json"], "How to print.", flag_values=options)
    flags.DEFINE_string("config", "disco103_catch", "The experiment whose part is timed.", flag_values=options)
    flags.DEFINE_integer("repetitions", REPETITIONS, "Timed runs.", lower_bound=1, flag_values=options)


def main(arguments: Sequence[str], options: flags.FlagValues) -> int:
    """Times a part and prints its figures."""
    what = arguments[0]
    if what not in BENCHMARKS:
        guess = did_you_mean(closest(what, BENCHMARKS)) or f" There is: {', '.join(BENCHMARKS)}."
        raise UserError(f"there is no benchmark '{what}'.{guess}")
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
    experiment = load_experiment(options.config, options).experiment
    trainer = Trainer(experiment)
    key = jax.random.key(0)
    batch = experiment.replay.batch(experiment.num_environments)
    collecting = Trainer(dataclasses.replace(experiment, num_environments=batch, minibatches=1))
    learner, trajectory = jax.jit(collecting.newborn_and_trajectory)(key)
    meta_params = jax.jit(trainer.initial_meta_params)(key)

    update = jax.jit(trainer.learner.update, donate_argnums=1)
    traced = update.trace(meta_params, learner, trajectory, key)
    begin = time.perf_counter()
    compiled = traced.lower().compile()
    compile_seconds = time.perf_counter() - begin
    state = learner

    def run() -> Any:
        nonlocal state
        state, _ = compiled(meta_params, state, trajectory, key)
        return state

    timing = timed(run, options.repetitions)
    memory = compiled.memory_analysis()
    return {
        "what": "learner",
        "seconds": timing.seconds,
        "matmul_gflops": timing.matmul_gflops,
        "work_gflop": timing.work_gflop,
        "compile_seconds": compile_seconds,
        "temp_megabytes": memory.temp_size_in_bytes / 1e6,
        "flops": count_flops(traced.jaxpr.jaxpr),
        "batch": batch,
        "steps": experiment.trajectory_length,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        "meta_parameters": sum(leaf.size for leaf in jax.tree.leaves(meta_params)),
        "device": jax.devices()[0].device_kind,
    }


BENCHMARKS: dict[str, Callable[[flags.FlagValues], dict[str, Any]]] = {"learner": bench_learner}
