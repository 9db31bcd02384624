"""Stands for a run: works until the file ``NAME.go`` is there; told to stop, saves until there is ``NAME.saved``."""

import json
import signal
import sys
import time
from pathlib import Path

EXPERIMENT, FOLDER = sys.argv[1], Path(sys.argv[-1].removeprefix("--workdir="))
STEPS = 10


def result(status, steps):
    text = {"status": status, "config_hash": "0123456789ab", "seed": 0, "steps": steps, "env_steps": steps}
    (FOLDER / "result.json").write_text(json.dumps({**text, "wall_seconds": 1.0, "final_return": 0.5}))


def wait_for(name):
    while not Path(name).exists():
        time.sleep(0.01)


def stop(number, frame):
    wait_for(f"{EXPERIMENT}.saved")
    result("interrupted", 5)
    sys.exit(130)


signal.signal(signal.SIGTERM, stop)
FOLDER.mkdir(exist_ok=True)
(FOLDER / "arguments.json").write_text(json.dumps(sys.argv[1:]))
with (FOLDER / "starts").open("a") as starts:
    starts.write("once more\n")
if EXPERIMENT == "fails":
    print("a traceback\nValueError: it was made to fail")
    sys.exit(1)
wait_for(f"{EXPERIMENT}.go")
result("finished", STEPS)
