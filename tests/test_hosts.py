"""Several hosts do one run: here, processes with a device or two each, which talk as machines would.

One discovery with lives that end, a replay, a bandit and an optimizer for each agent; and how all end when one does.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np
import pytest
from meta_parameters import assert_same_but_for_rounding
from running import (
    ROOT,
    SMALL_DISCOVERY,
    SMALL_PPO,
    assert_same_run,
    command,
    intervals,
    points_of,
    process_environment,
    result_of,
)

from experiments import cli
from framework import failures, hosts
from framework.checkpoint import state_sha256
from framework.errors import UserError
from framework.parallel import Agents, mesh_size

STEPS = 20
DISCOVERY = (
    SMALL_DISCOVERY,
    "--gin.AGENTS=4",
    *intervals(logging=1, checkpoints=1, episodes=2),
    f"--gin.Logging.keep_checkpoints={STEPS + 1}",
)
ON_CATCH = (
    SMALL_DISCOVERY,
    "--gin.Experiment.groups=[@catch/Group()]",
    *intervals(logging=1, checkpoints=1, episodes=0),
    f"--gin.Logging.keep_checkpoints={STEPS + 1}",
)
"""A quarter of the discovery: two agents, none on grid worlds."""
ENDLESS = (*ON_CATCH[:2], *intervals(logging=1, checkpoints=10**6, episodes=0))
MIXED = (
    str(ROOT / "tests" / "small_mixed.gin"),
    "--gin.Group.agents=2",
    *intervals(logging=2, checkpoints=2, episodes=1),
    f"--gin.Logging.keep_checkpoints={STEPS}",
)
"""CartPole and Pong outside the device, Catch on it; two agents on each."""


class Processes:
    """Processes that meet, each of which may be told to end; what they print is kept beside the folder."""

    def __init__(self, folder: Path, commands: Sequence[Sequence[str]], **variables: str) -> None:
        self.folder = folder
        self._logs = [folder.with_name(f"{folder.name}.{process}.log") for process in range(len(commands))]
        self.started = []
        for words, log in zip(commands, self._logs, strict=True):
            with log.open("w") as written:
                started = subprocess.Popen(
                    words, stdout=written, stderr=subprocess.STDOUT, env=process_environment() | variables
                )
            self.started.append(started)

    def printed(self, process: int = 0) -> str:
        return self._logs[process].read_text()

    def last_line(self, process: int) -> str:
        return self.printed(process).splitlines()[-1]

    def statuses(self, seconds: float = 500) -> list[int]:
        """Exit statuses, when all have ended; none is left behind."""
        try:
            deadline = time.monotonic() + seconds
            return [process.wait(deadline - time.monotonic()) for process in self.started]
        finally:
            for process in self.started:
                process.kill()

    def finished(self) -> Path:
        """The run's folder, when all have ended well."""
        assert self.statuses() == [0] * len(self.started), "\n".join(map(self.printed, range(len(self.started))))
        return self.folder

    def wait_until(self, happened: Callable[[], object], seconds: float = 500) -> None:
        """Returns as soon as something has happened."""
        deadline = time.monotonic() + seconds
        while not happened():
            ended = [process.poll() for process in self.started]
            if set(ended) != {None} or time.monotonic() > deadline:
                self.kill()
                pytest.fail("\n".join(map(self.printed, range(len(self.started)))))
            time.sleep(0.05)

    def wait_for_point(self) -> None:
        """Returns as soon as the run says how far it is."""
        self.wait_until(lambda: re.search(r"step [\d,]+/", self.printed()))

    def kill(self) -> None:
        for process in self.started:
            process.kill()
            process.wait()


def run_by(
    folder: Path, *words: str, processes: int, devices: int, steps: int = STEPS, address: str = "", **variables: str
) -> Processes:
    """A run by several processes, in a folder or at an address of a bucket."""
    together: Sequence[tuple[str, ...]] = [()]
    if processes > 1:
        port = free_port()
        together = [
            (f"--coordinator=localhost:{port}", f"--processes={processes}", f"--process={process}")
            for process in range(processes)
        ]
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    own = (f"--workdir={address or folder}", f"--gin.STEPS={steps}")
    commands = [command("run", *words, *place, *own) for place in together]
    return Processes(folder, commands, XLA_FLAGS=flags, **variables)


READS_CACHE = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "1e9"}
"""For who is killed: half an entry in the cache of programs would be left to all other tests."""


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port: int = free.getsockname()[1]
        return port


def interrupted(run: Path, step: int) -> Path:
    """A copy of a run that was killed after the checkpoint of a step."""
    folder = run.with_name(f"{run.name}_from_{step}")
    shutil.copytree(run, folder)
    (folder / "result.json").unlink()
    for saved in (folder / "checkpoints").iterdir():
        if int(saved.name) > step:
            shutil.rmtree(saved)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


def test_one_host_continues_what_two_began(folder: Path) -> None:
    """And does what they did, to the last bit: over lives and births, with as many devices."""
    two = run_by(folder / "two_on_catch", *ON_CATCH, processes=2, devices=1, steps=8).finished()
    assert sum(point["agents/lives_completed"] for point in points_of(two)[4:]) > 0
    continued = run_by(interrupted(two, 4), *ON_CATCH, processes=1, devices=2, steps=8)
    assert_same_run(continued.finished(), two)
    assert "from step 4" in continued.printed()


@pytest.fixture(scope="module")
def two_hosts(folder: Path) -> Path:
    """Two processes with two devices each."""
    return run_by(folder / "two_hosts", *DISCOVERY, processes=2, devices=2).finished()


@pytest.fixture(scope="module")
def one_host(folder: Path) -> Path:
    """One process with four devices."""
    return run_by(folder / "one_host", *DISCOVERY, processes=1, devices=4).finished()


@pytest.mark.slow
def test_two_hosts_are_one_with_as_many_devices(two_hosts: Path, one_host: Path) -> None:
    """To the last bit, with several groups of agents."""
    assert_same_run(two_hosts, one_host)


@pytest.mark.slow
def test_two_hosts_continue_what_one_began(one_host: Path) -> None:
    continued = run_by(interrupted(one_host, 15), *DISCOVERY, processes=2, devices=2)
    assert_same_run(continued.finished(), one_host)
    assert "from step 15" in continued.printed(0)
    assert "from step" not in continued.printed(1)


@pytest.mark.slow
def test_one_device_finds_the_same_but_for_rounding(two_hosts: Path, folder: Path) -> None:
    """Four agents of one device are summed up in another order; their actions are the same for 20 meta-steps."""
    one_device = run_by(folder / "one_device", *DISCOVERY, processes=1, devices=1).finished()
    for name in ("return/wide", "return/tall", "return/catch_3x3"):
        returns, others = ([point[name] for point in points_of(run)] for run in (one_device, two_hosts))
        assert returns == others
    for step, relative in ((1, 1e-6), (STEPS, 1e-4)):
        assert_same_but_for_rounding(one_device, two_hosts, step, relative)


@pytest.mark.slow
def test_each_host_steps_and_saves_its_own_environments(folder: Path) -> None:
    """As one host with as many devices does, which goes on from what two have saved, and they from what it has."""
    two = run_by(folder / "mixed_two", *MIXED, processes=2, devices=1, steps=12).finished()
    one = run_by(folder / "mixed_one", *MIXED, processes=1, devices=2, steps=12).finished()
    assert_same_run(two, one)
    saved = {path.name for path in (two / "checkpoints" / "12").glob("environments_*")}
    assert saved == {f"environments_{group}_{place}.pickle" for group in (0, 1) for place in (0, 1)}
    for run, processes in ((two, 1), (one, 2)):
        continued = run_by(interrupted(run, 6), *MIXED, processes=processes, devices=2 // processes, steps=12)
        assert_same_run(continued.finished(), one)


# How they end together.

SILENT = r"(nothing was heard of it for \d+ seconds|it no longer answers)"


@pytest.mark.slow
@pytest.mark.parametrize("process", [0, 1])
def test_one_host_that_is_told_to_end_stops_all_with_the_state_saved(process: int, tmp_path: Path) -> None:
    run = run_by(tmp_path / "run", *ENDLESS, processes=2, devices=1, steps=10**6)
    run.wait_for_point()
    run.started[process].send_signal(signal.SIGTERM)
    assert run.statuses(100) == [130, 130]
    result = result_of(run.folder)
    assert result["status"] == "interrupted"
    assert (run.folder / "checkpoints" / str(result["steps"]) / "manifest.json").is_file()
    assert "stopped at step" in run.printed(0)


@pytest.mark.slow
def test_one_host_that_is_told_to_end_while_it_compiles_stops_all_before_the_first_step(tmp_path: Path) -> None:
    run = run_by(tmp_path / "run", *ENDLESS, processes=2, devices=1, steps=10**6)
    run.wait_until(lambda: "Gloo" in run.printed(1))  # Their devices have met; the first program is not there yet.
    run.started[1].send_signal(signal.SIGTERM)
    assert run.statuses(300) == [130, 130]
    assert (result_of(run.folder)["status"], result_of(run.folder)["steps"]) == ("interrupted", 0)


@pytest.mark.slow
def test_a_host_is_killed_and_another_number_of_hosts_goes_on(one_host: Path, tmp_path: Path) -> None:
    """The others say who is lost and what is saved; one with four devices ends where it does without them."""
    run = run_by(tmp_path / "run", *DISCOVERY, processes=2, devices=2, **READS_CACHE)
    run.wait_until(lambda: (run.folder / "checkpoints" / "2").exists())
    run.started[1].kill()
    assert run.statuses(100) == [1, -signal.SIGKILL]
    assert re.fullmatch(
        rf"process 1 of 2, on \S+, is lost: {SILENT}; {run.folder} holds the state of "
        r"step \d+; the same command on every host goes on from there",
        run.last_line(0),
    )
    assert "is lost" in result_of(run.folder)["error"]
    assert_same_run(run_by(run.folder, *DISCOVERY, processes=1, devices=4).finished(), one_host)


def meeting(tmp_path: Path, what: str, special: int = 0, count: int = 2) -> Processes:
    """Processes that do little together: see ``meeting.py``."""
    port = free_port()
    program = [sys.executable, str(ROOT / "tests" / "meeting.py"), what, str(special), str(count), str(port)]
    return Processes(tmp_path / what, [[*program, str(process)] for process in range(count)])


# On a busy machine one may be lost before another has heard a first beat, which tells where it is.
LOST = rf"process {{}} of {{}}(, on \S+,)? is lost: {SILENT}; step 7 is saved"


@pytest.mark.parametrize(
    ("what", "lost", "count"),
    [
        ("compute", 1, 2),
        pytest.param("compute", 0, 3, marks=pytest.mark.slow),
        pytest.param("compute", 2, 3, marks=pytest.mark.slow),
        pytest.param("wait", 1, 3, marks=pytest.mark.slow),
        pytest.param("wait", 0, 3, marks=pytest.mark.slow),
    ],
)
def test_a_lost_host_ends_all_and_is_named(what: str, lost: int, count: int, tmp_path: Path) -> None:
    """Whether they compute something or wait for it, and even if it is the one by way of which they talk."""
    processes = meeting(tmp_path, what, lost, count)
    processes.wait_until(lambda: "together" in processes.printed())
    processes.started[lost].kill()
    statuses = processes.statuses(60)
    assert statuses.pop(lost) == -signal.SIGKILL
    assert set(statuses) == {1}
    for process in {*range(count)} - {lost}:
        assert re.fullmatch(LOST.format(lost, count), processes.last_line(process))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "status", "said"), [("fail", 1, "failed: broken"), ("abort", -signal.SIGABRT, "was aborted by a library")]
)
@pytest.mark.parametrize("process", [0, 1])
def test_who_fails_is_named(process: int, what: str, status: int, said: str, tmp_path: Path) -> None:
    """Process 0 cannot say that it aborts, with which goes what they talk through."""
    processes = meeting(tmp_path, what, process)
    statuses = processes.statuses(60)
    assert statuses.pop(process) == status
    assert statuses == [1]
    assert said in processes.last_line(1 - process) or (what == "abort" and process == 0)
    assert processes.last_line(1 - process).startswith(f"process {process} of 2")


@pytest.mark.slow
@pytest.mark.parametrize("process", [0, 1])
def test_who_waits_for_others_in_vain_is_told(process: int, tmp_path: Path) -> None:
    """JAX waits for five minutes, here for five seconds, and then aborts."""
    impatient = "import functools, jax, sys\n" \
        "jax.distributed.initialize = functools.partial(jax.distributed.initialize, initialization_timeout=5)\n" \
        "from framework import hosts\n" \
        "hosts.join(sys.argv[1], 2, int(sys.argv[2]))"  # fmt: skip
    words = command()[0], "-c", impatient, f"localhost:{free_port()}", str(process)
    alone = Processes(tmp_path / "alone", [words])
    assert alone.statuses(60) == [1]
    assert alone.last_line(0).startswith("the processes of this run cannot meet: JAX waited in vain, as it says above;")


@pytest.mark.slow
def test_an_error_of_one_host_ends_all_and_is_named(tmp_path: Path) -> None:
    """Here the second one, before it has devices to share: the first waits for it, and cannot be interrupted."""
    port = free_port()
    failing = "import experiments.run as run\n" \
        "def train(*_): raise run.UserError('the emulator of this host is broken')\n" \
        "run.train = train\n" \
        "from experiments import cli\n" \
        "raise SystemExit(cli.main())"  # fmt: skip
    places = [(f"--coordinator=localhost:{port}", "--processes=2", f"--process={process}") for process in (0, 1)]
    words = [("run", *ON_CATCH, *place, f"--workdir={tmp_path / 'run'}") for place in places]
    run = Processes(tmp_path / "run", [command(*words[0]), [command()[0], "-c", failing, *words[1]]])
    assert run.statuses(200) == [1, 1]
    named = "process 1 of 2 failed: the emulator of this host is broken"
    assert run.last_line(0) == f"{named}; {run.folder} holds no state yet"
    assert "the emulator of this host is broken" in run.last_line(1)
    assert (result_of(run.folder)["status"], result_of(run.folder)["error"]) == ("failed", named)


# Without any other process.


def test_alone_everything_is_ones_own() -> None:
    assert (hosts.count(), hosts.is_writer()) == (1, True)
    assert hosts.exchanged([1, "a"]) == [[1, "a"]]
    assert hosts.by_writer(lambda: 3) == 3
    agents = Agents(3)
    np.testing.assert_array_equal(agents.own, [0, 1, 2])
    rows = np.arange(6.0).reshape(3, 2)
    np.testing.assert_array_equal(hosts.own_rows(agents.spread(rows)), rows)
    assert agents.given(rows) is rows
    with failures.FailureWatch():
        hosts.wait_for_all()


def test_files_belong_to_the_state() -> None:
    state = {"x": np.arange(3)}
    different = [
        state_sha256(state, files) for files in ({}, {"a": b"1"}, {"a": b"2"}, {"b": b"1"}, {"a": b"1", "b": b"1"})
    ]
    assert len(set(different)) == 5
    assert state_sha256(state, {"b": b"1", "a": b"1"}) == different[-1]


@pytest.mark.parametrize(
    ("counts", "devices", "processes", "size"),
    [([4, 2], 2, 2, 2), ([4, 8], 2, 2, 4), ([12], 4, 2, 6), ([12], 4, 3, 12), ([6], 1, 3, 3)],
)
def test_every_host_has_as_many_agents(counts: list[int], devices: int, processes: int, size: int) -> None:
    assert mesh_size(counts, devices, processes) == size


def test_agents_that_cannot_be_spread_over_hosts_are_refused() -> None:
    with pytest.raises(UserError, match="3 agents cannot be spread evenly over 2 hosts: give every group a multiple"):
        mesh_size([4, 3], 8, 2)


def test_nobody_is_waited_for_without_being_named(monkeypatch: pytest.MonkeyPatch) -> None:
    met: list[tuple[object, ...]] = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *given, **_: met.append(given))
    for name in ("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES", "MEGASCALE_NUM_SLICES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(jax.config, "update", lambda *_: None)
    hosts.join()
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "localhost")
    hosts.join()
    assert not met
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "pod-0.svc,pod-1.svc")
    hosts.join()
    monkeypatch.delenv("TPU_WORKER_HOSTNAMES")
    monkeypatch.setenv("MEGASCALE_NUM_SLICES", "2")
    hosts.join()
    monkeypatch.delenv("MEGASCALE_NUM_SLICES")
    hosts.join("auto")
    hosts.join("first:1234", 4, 2)
    assert met == [(), (), (), ("first:1234", 4, 2)]


def failing(*_: object, **__: object) -> None:
    raise RuntimeError("DEADLINE_EXCEEDED: nobody answers\nRPC: ...")


def test_processes_that_cannot_meet_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax.distributed, "initialize", failing)
    monkeypatch.setattr(jax.config, "update", lambda *_: None)
    with pytest.raises(UserError, match="cannot meet: DEADLINE_EXCEEDED: nobody answers; start all of them with"):
        hosts.join("first:1234", 4, 2)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--coordinator=a:1",), "go together"),
        (("--processes=2", "--process=0"), "go together"),
        (("--coordinator=a:1", "--processes=2"), "go together"),
        (("--coordinator=auto", "--processes=2", "--process=0"), "go together"),
        (("--coordinator=a:1", "--processes=2", "--process=2"), "none of the 2"),
    ],
)
def test_flags_that_name_no_others(words: Sequence[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "ppo_catch", *words]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.slow
def test_two_hosts_that_share_a_bucket_alone(folder: Path) -> None:
    """Each has a working copy of its own; killed in the middle, both go on, and one alone finishes what they began."""
    pytest.importorskip("google.cloud.storage")
    from object_server import BUCKET, serving

    words = (*SMALL_PPO, "--gin.Group.agents=2", *intervals(logging=1, checkpoints=1, episodes=2))
    expected = run_by(folder / "alone", *words, processes=1, devices=2).finished()
    with serving() as server:
        address = f"gs://{BUCKET}/runs/ppo"
        manifest = threading.Event()

        def before(method: str, name: str) -> None:
            """The process that saves is killed before the checkpoint counts."""
            if method == "PUT" and name.endswith("checkpoints/6/manifest.json") and not manifest.is_set():
                manifest.set()
                time.sleep(600)

        server.before = before
        killed = run_by(folder / "killed", *words, processes=2, devices=1, address=address)
        assert manifest.wait(500), "\n".join(map(killed.printed, range(2)))
        killed.kill()
        assert killed.statuses() == [-signal.SIGKILL] * 2
        assert any(name.startswith("checkpoints/6/state/") for name in server.below("runs/ppo"))
        continued = run_by(folder / "continued", *words, processes=2, devices=1, address=address, steps=12)
        continued.finished()
        assert f"continuing {address} from step 5" in continued.printed()
        ended = run_by(folder / "ended", *words, processes=1, devices=2, address=address)
        ended.finished()
        assert f"continuing {address} from step 12" in ended.printed()
        assert_same_run(server.copy_to(folder / "fetched", "runs/ppo"), expected)
