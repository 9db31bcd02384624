"""``make quickstart``: runs the main job, draws what it learned, and says where the results are."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from components.weights import DISCO103, WeightsError, local_file
from experiments import cli

FOLDER = Path("runs") / "quickstart"
STATIC_RULE, DISCOVERED_RULE = "ppo_catch", "disco103_catch"


def main() -> int:
    """Trains an agent with a hand-made rule and, where its weights are found, one with Disco103."""
    configs = [STATIC_RULE]
    try:
        found = local_file(DISCO103)
    except WeightsError as error:
        found = None
        print(error, file=sys.stderr)
    if found is None:
        print(f"The Disco103 weights are not on this machine: `rulespace run {DISCOVERED_RULE}` downloads them.")
    else:
        configs.append(DISCOVERED_RULE)
    for config in configs:
        print(f"\n$ rulespace run {config} --workdir={FOLDER / config}")
        if (status := cli.main(["run", config, f"--workdir={FOLDER / config}"])) != 0:
            return status
    _draw(configs)
    return 0


def _draw(configs: list[str]) -> None:
    from framework.runs.curves import draw_comparison

    picture = FOLDER / "learning_curves.png"
    draw_comparison(picture, {config: _curve(FOLDER / config) for config in configs}, title="Catch 8 x 8")
    print(f"\nResults: {FOLDER}/\nLearning curves: {picture}")


def _curve(folder: Path) -> list[Any]:
    result = json.loads((folder / "result.json").read_text())
    (curve,) = result["returns"].values()
    return curve


if __name__ == "__main__":
    sys.exit(main())
