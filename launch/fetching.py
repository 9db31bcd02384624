"""What units of other machines have written, brought into the folder of their grid."""

from __future__ import annotations

from launch.grid import GridFolder
from launch.states import State


def fetched(grid: GridFolder) -> dict[str, State]:
    """Brings results, metrics and logs here, and says how the units stand at the services that have them.

    Of a grid of this machine there is nothing to fetch.
    """
    if not grid.launches():
        return {}
    raise NotImplementedError
