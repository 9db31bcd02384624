"""What the README shows works as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

from running import rulespace

README = Path(__file__).parents[1] / "README.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(), flags=re.DOTALL)


def test_search_space_is_short_and_runs(tmp_path: Path) -> None:
    text = blocks("gin")[0]
    assert len([line for line in text.splitlines() if line.strip()]) < 25
    (tmp_path / "mine.gin").write_text(text)
    described = rulespace("describe", "mine.gin", cwd=tmp_path)
    assert described.returncode == 0, described.stderr
    for shown in ("KL(y_hat || y)", "Meta-loss", "Prediction", "parameters"):
        assert shown in described.stdout
    small = ("--gin_file=scale/tiny.gin", "--gin.ReverseLSTM.size=4")
    done = rulespace("run", "mine.gin", *small, "--workdir=run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "finished" in done.stdout


def test_search_space_without_a_head_is_refused(tmp_path: Path) -> None:
    text = blocks("gin")[0].replace(", @heads.Prediction()]", "]", 1).replace("heads.Prediction.categories = 30\n", "")
    (tmp_path / "mine.gin").write_text(text)
    checked = rulespace("check", "mine.gin", cwd=tmp_path)
    assert checked.returncode == 1
    assert "there is no head 'y'" in checked.stderr + checked.stdout


def test_own_loss_term_runs(tmp_path: Path) -> None:
    (tmp_path / "my_terms.py").write_text(blocks("python")[0])
    (tmp_path / "mine.gin").write_text(blocks("gin")[1])
    described = rulespace("describe", "mine.gin", cwd=tmp_path)
    assert described.returncode == 0, described.stderr
    assert "0.01 mean logits^2" in described.stdout
    done = rulespace("run", "mine.gin", "--gin.STEPS=2", "--workdir=run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


CORRIDOR = """
import gymnasium
import numpy as np


class Corridor(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(0.0, 1.0, (1,))
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.place += 1 if action else -1
        over = abs(self.place) == 3
        return np.full(1, self.place / 3, np.float32), float(over and self.place > 0), over, False, {}


gymnasium.register("Corridor-v0", Corridor)
"""


def test_own_environment_runs(tmp_path: Path) -> None:
    (tmp_path / "my_worlds.py").write_text(CORRIDOR)
    (tmp_path / "mine.gin").write_text(blocks("gin")[2])
    small = ("--gin.STEPS=2", "--gin.NUM_ENVIRONMENTS=2", "--gin.TRAJECTORY_LENGTH=8", "--gin.MINIBATCHES=1")
    done = rulespace("run", "mine.gin", *small, "--workdir=run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "return/my_worlds:Corridor-v0" in (tmp_path / "run" / "metrics.jsonl").read_text()


def test_commands_exist() -> None:
    makefile = (README.parent / "Makefile").read_text()
    shown = "\n".join(blocks("sh"))
    for target in re.findall(r"^make ([a-z-]+)", shown, flags=re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target
    configs = re.findall(r"^rulespace (?:run|describe|diff) (\w+)", shown, flags=re.MULTILINE)
    assert configs
    for config in configs:
        assert (README.parent / "gin" / "experiments" / f"{config}.gin").is_file(), config


def test_every_link_leads_to_a_file() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", README.read_text())
    assert links
    for link in links:
        assert (README.parent / link).exists(), link
