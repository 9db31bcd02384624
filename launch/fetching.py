"""What units of other machines have written, brought into the folder of their grid."""

from __future__ import annotations

from framework.runs.storage import write_atomically
from launch.grid import GridFolder
from launch.places import place_of
from launch.states import State


def fetched(grid: GridFolder) -> dict[str, State]:
    """Brings results, metrics and logs here, and says how the units stand at the services that have them.

    Of a grid of this machine there is nothing to fetch.

    Raises:
      UserError: a service or the bucket does not answer.
    """
    standing: dict[str, State] = {}
    folders = {unit.name: unit.folder for unit in grid.units()}
    for launch in grid.launches():  # Oldest first: the latest start of a unit has the last word.
        place = place_of(launch)
        for unit, state in place.states(launch).items():
            standing[unit] = state
            prefix = f"gs://{place.bucket.name}/"
            place.bucket.fetch(folders[unit].removeprefix(prefix), grid.run_folder(unit))
            if log := place.log(launch, unit):
                write_atomically(grid.log(unit), log.encode())
    return standing
