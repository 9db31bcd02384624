"""Launches ``sweep.gin`` into ``grid``, two units at once, of which `unit` is the program; no config is looked at."""

from __future__ import annotations

import sys
from pathlib import Path

from framework.errors import UserError
from launch.grid import GridFolder, GridUnit
from launch.launching import start
from launch.local import ThisMachine
from launch.states import status_of
from launch.sweep_file import read_sweep

HASH, STEPS = "0123456789ab", 10
place = ThisMachine(max_parallel=2, program=(sys.executable, "-S", str(Path(__file__).with_name("unit.py"))))
grid, file = GridFolder(Path("grid")), read_sweep("sweep.gin")
units = []
for unit in file.sweep.units():
    folder = place.folder_of(grid, unit.name)
    units.append(GridUnit(unit.name, unit.in_folder(folder), folder, HASH, 0, STEPS, STEPS, 0, 0.0))
try:
    sys.exit(start(file, grid, [status_of(grid, unit) for unit in units], place, "local", {}))
except UserError as error:
    sys.exit(str(error))
