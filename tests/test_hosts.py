"""Several hosts do one run: here, two processes with two devices each, which talk as two machines would.

One discovery with lives that end, a replay, a bandit and an optimizer for each agent.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
import pytest
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
from framework import hosts
from framework.checkpoint import restore_newest, state_sha256
from framework.errors import UserError
from framework.parallel import Agents, mesh_size
from framework.types import Params

STEPS = 20
DISCOVERY = (
    SMALL_DISCOVERY,
    "--gin.AGENTS=4",
    *intervals(logging=1, checkpoints=1, episodes=2),
    f"--gin.Logging.keep_checkpoints={STEPS + 1}",
)
MIXED = (
    str(ROOT / "tests" / "small_mixed.gin"),
    "--gin.Group.agents=2",
    *intervals(logging=2, checkpoints=2, episodes=1),
    f"--gin.Logging.keep_checkpoints={STEPS}",
)
"""CartPole and Pong outside the device, Catch on it; two agents on each."""


class Processes:
    """A run by several processes, each of which may be told to end; in a folder, or at an address of a bucket."""

    def __init__(
        self, folder: Path, *words: str, processes: int, devices: int, steps: int = STEPS, address: str = ""
    ) -> None:
        self.folder = folder
        together: Sequence[tuple[str, ...]] = [()]
        if processes > 1:
            port = free_port()
            together = [
                (f"--coordinator=localhost:{port}", f"--processes={processes}", f"--process={process}")
                for process in range(processes)
            ]
        flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
        self._logs = [folder.with_name(f"{folder.name}.{process}.log") for process in range(processes)]
        self.started = []
        for place, log in zip(together, self._logs, strict=True):
            with log.open("w") as written:
                self.started.append(
                    subprocess.Popen(
                        command("run", *words, *place, f"--workdir={address or folder}", f"--gin.STEPS={steps}"),
                        stdout=written, stderr=subprocess.STDOUT, env=process_environment() | {"XLA_FLAGS": flags},
                    )
                )  # fmt: skip

    def printed(self, process: int = 0) -> str:
        return self._logs[process].read_text()

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

    def wait_for_point(self, seconds: float = 500) -> None:
        """Returns as soon as the run says how far it is."""
        deadline = time.monotonic() + seconds
        while not re.search(r"step [\d,]+/", self.printed()):
            ended = [process.poll() for process in self.started]
            assert set(ended) == {None}, "\n".join(map(self.printed, range(len(self.started))))
            assert time.monotonic() < deadline
            time.sleep(0.05)


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


@pytest.fixture(scope="module")
def two_hosts(folder: Path) -> Path:
    """Two processes with two devices each."""
    return Processes(folder / "two_hosts", *DISCOVERY, processes=2, devices=2).finished()


@pytest.fixture(scope="module")
def one_host(folder: Path) -> Path:
    """One process with four devices."""
    return Processes(folder / "one_host", *DISCOVERY, processes=1, devices=4).finished()


def test_two_hosts_are_one_with_as_many_devices(two_hosts: Path, one_host: Path) -> None:
    """To the last bit, over lives and births."""
    assert sum(point["agents/lives_completed"] for point in points_of(two_hosts)) > 0
    assert_same_run(two_hosts, one_host)


def test_one_host_continues_what_two_began(two_hosts: Path, one_host: Path) -> None:
    continued = Processes(interrupted(two_hosts, 15), *DISCOVERY, processes=1, devices=4)
    assert_same_run(continued.finished(), one_host)
    assert "from step 15" in continued.printed()


@pytest.mark.slow
def test_two_hosts_continue_what_one_began(one_host: Path) -> None:
    continued = Processes(interrupted(one_host, 15), *DISCOVERY, processes=2, devices=2)
    assert_same_run(continued.finished(), one_host)
    assert "from step 15" in continued.printed(0)
    assert "from step" not in continued.printed(1)


@pytest.fixture(scope="module")
def shapes() -> Params:
    """Shapes of the meta-parameters."""
    from framework.config import load
    from framework.experiment import Experiment
    from framework.train import Trainer

    return Trainer(load(SMALL_DISCOVERY, root=Experiment).experiment).meta_params_shapes()


def meta_params(run: Path, step: int, shapes: Params) -> Params:
    """A run's meta-parameters after a meta-step."""
    alone = run / f"checkpoint_{step}"
    alone.mkdir(exist_ok=True)
    if not (alone / str(step)).exists():
        (alone / str(step)).symlink_to(run / "checkpoints" / str(step))
    restored = restore_newest(alone, shapes, within=".meta_params")
    assert restored is not None
    return restored[1]


@pytest.mark.slow
def test_one_device_finds_the_same_but_for_rounding(two_hosts: Path, folder: Path, shapes: Params) -> None:
    """Four agents of one device are summed up in another order; their actions are the same for 20 meta-steps."""
    one_device = Processes(folder / "one_device", *DISCOVERY, processes=1, devices=1).finished()
    for name in ("return/wide", "return/tall", "return/catch_3x3"):
        returns, others = ([point[name] for point in points_of(run)] for run in (one_device, two_hosts))
        assert returns == others
    for step, relative in ((1, 1e-6), (STEPS, 1e-4)):
        one, other = (meta_params(run, step, shapes) for run in (one_device, two_hosts))
        for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
            np.testing.assert_allclose(x, y, rtol=relative, atol=relative * np.abs(y).max())


@pytest.mark.slow
def test_each_host_steps_and_saves_its_own_environments(folder: Path) -> None:
    """As one host with as many devices does, which goes on from what two have saved, and they from what it has."""
    two = Processes(folder / "mixed_two", *MIXED, processes=2, devices=1, steps=12).finished()
    one = Processes(folder / "mixed_one", *MIXED, processes=1, devices=2, steps=12).finished()
    assert_same_run(two, one)
    saved = {path.name for path in (two / "checkpoints" / "12").glob("environments_*")}
    assert saved == {f"environments_{group}_{place}.pickle" for group in (0, 1) for place in (0, 1)}
    for run, processes in ((two, 1), (one, 2)):
        continued = Processes(interrupted(run, 6), *MIXED, processes=processes, devices=2 // processes, steps=12)
        assert_same_run(continued.finished(), one)


@pytest.mark.slow
@pytest.mark.parametrize("process", [0, 1])
def test_one_host_that_is_told_to_end_stops_all_with_the_state_saved(
    process: int, folder: Path, tmp_path: Path
) -> None:
    words = (*DISCOVERY[:2], *intervals(logging=1, checkpoints=10**6, episodes=0))
    run = Processes(tmp_path / "run", *words, processes=2, devices=2, steps=10**6)
    run.wait_for_point()
    run.started[process].send_signal(signal.SIGTERM)
    assert run.statuses(60) == [130, 130]
    result = result_of(run.folder)
    assert result["status"] == "interrupted"
    assert (run.folder / "checkpoints" / str(result["steps"]) / "manifest.json").is_file()
    assert "stopped at step" in run.printed(0)


@pytest.mark.slow
def test_a_host_that_is_lost_ends_the_others(tmp_path: Path) -> None:
    words = (*DISCOVERY[:2], *intervals(logging=1, checkpoints=10**6, episodes=0))
    run = Processes(tmp_path / "run", *words, processes=2, devices=2, steps=10**6)
    run.wait_for_point()
    run.started[1].kill()
    first, _ = run.statuses(200)
    # Whoever computes hears of it and says so; whoever waits is ended by JAX, after its heartbeat's 100 seconds.
    words = {1: "another process of this run is gone", -signal.SIGABRT: "another task died"}
    assert words[first] in run.printed(0)


@pytest.mark.slow
def test_an_error_of_one_host_ends_all_and_is_named(tmp_path: Path) -> None:
    """Here the second one, before it has devices to share: the first waits for it, and cannot be interrupted."""
    port = free_port()
    failing = "import experiments.run as run\n" \
        "def train(*_): raise run.UserError('the emulator of this host is broken')\n" \
        "run.train = train\n" \
        "from experiments import cli\n" \
        "raise SystemExit(cli.main())"  # fmt: skip
    started = []
    for process in (0, 1):
        words = ("run", *DISCOVERY, f"--coordinator=localhost:{port}", "--processes=2", f"--process={process}")
        program = command(*words) if process == 0 else [command()[0], "-c", failing, *words]
        started.append(
            subprocess.Popen(
                [*program, f"--workdir={tmp_path / 'run'}"],
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=process_environment(),
            )
        )  # fmt: skip
    errors = [process.communicate(timeout=200)[1] for process in started]
    assert [process.returncode for process in started] == [1, 1]
    assert "process 1 of 2 failed: the emulator of this host is broken" in errors[0]
    assert "the emulator of this host is broken" in errors[1]
    result = result_of(tmp_path / "run")
    assert (result["status"], result["error"]) == (
        "failed",
        "process 1 of 2 failed: the emulator of this host is broken",
    )


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
    with hosts.FailureWatch():
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
    expected = Processes(folder / "alone", *words, processes=1, devices=2).finished()
    with serving() as server:
        address = f"gs://{BUCKET}/runs/ppo"
        manifest = threading.Event()

        def before(method: str, name: str) -> None:
            """The process that saves is killed before the checkpoint counts."""
            if method == "PUT" and name.endswith("checkpoints/6/manifest.json") and not manifest.is_set():
                manifest.set()
                time.sleep(600)

        server.before = before
        killed = Processes(folder / "killed", *words, processes=2, devices=1, address=address)
        assert manifest.wait(500), "\n".join(map(killed.printed, range(2)))
        for process in killed.started:
            process.kill()
        assert killed.statuses() == [-signal.SIGKILL] * 2
        assert any(name.startswith("checkpoints/6/state/") for name in server.below("runs/ppo"))
        continued = Processes(folder / "continued", *words, processes=2, devices=1, address=address, steps=12)
        continued.finished()
        assert f"continuing {address} from step 5" in continued.printed()
        ended = Processes(folder / "ended", *words, processes=1, devices=2, address=address)
        ended.finished()
        assert f"continuing {address} from step 12" in ended.printed()
        assert_same_run(server.copy_to(folder / "fetched", "runs/ppo"), expected)
