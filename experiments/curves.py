"""``python -m experiments.curves RUN... --out=PICTURE``: the learning curves of finished or running runs, side by side.

A run whose agents' returns are logged one by one (``Group.returns_by_agent``) shows each as a thin line.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from framework.errors import UserError
from framework.exit_status import FAILED, OK
from framework.runs.curves import Panel, draw_panels
from framework.runs.metrics import read_metrics

OF_AGENT = "return_by_agent/"


def panel_of(run: Path) -> Panel:
    """A run's mean episode return over the environment steps of one agent, and each agent's where they are logged.

    Raises:
      UserError: where no point has been logged in the folder.
    """
    points = read_metrics(run)
    if not points:
        raise UserError(f"{run} holds no logged point of a run: name a folder that `rulespace run` has written to")
    agents = sorted(name for name in points[-1] if name.startswith(OF_AGENT))
    tasks = ", ".join(name.removeprefix("return/") for name in points[-1] if name.startswith("return/"))
    count = max(1, len(agents))
    label = f"mean of {len(agents)}" if agents else "mean"

    def line(name: str) -> list[tuple[float, float | None]]:
        return [(point["env_steps"] / count, point.get(name)) for point in points]

    return Panel(
        title=tasks,
        lines={label: line("episode/return")},
        unit="environment steps of an agent" if agents else "environment steps",
        members={label: [line(name) for name in agents]},
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.curves", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a run")
    parser.add_argument("--out", type=Path, required=True, metavar="PICTURE", help="the PNG to write")
    parser.add_argument("--title", default="", help="above the picture")
    options = parser.parse_args(argv)
    try:
        draw_panels(options.out, [panel_of(run) for run in options.runs], title=options.title, option="--out")
    except UserError as error:
        print(error, file=sys.stderr)
        return FAILED
    return OK


if __name__ == "__main__":
    sys.exit(main())
