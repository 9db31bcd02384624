"""What is installed: every module and gin file, and no package ``gin`` of ours."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("framework", "components", "experiments", "launch", "gin")
PUBLISHED = ("atari57", "crafter", "dmlab30", "hyperparameters", "nethack", "procgen")
FILES = ("setup.cfg", "pyproject.toml", "LICENSE", "README.md")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what a package is built from, because setuptools writes beside its sources."""
    copy = tmp_path_factory.mktemp("project")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        if (ROOT / name).is_file():
            shutil.copy(ROOT / name, copy)
    return copy


def build(project: Path, what: str) -> Path:
    """Builds a ``wheel`` or an ``sdist`` of a project, without network."""
    code = f"from setuptools import build_meta; print(build_meta.build_{what}('dist'))"
    done = subprocess.run([sys.executable, "-c", code], cwd=project, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return project / "dist" / done.stdout.splitlines()[-1]


def content(wheel: Path) -> set[str]:
    """The names of a wheel's files, without its own records."""
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


@pytest.fixture(scope="module")
def wheel(project: Path) -> Path:
    return build(project, "wheel")


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds what installing the wheel puts into site-packages."""
    folder = tmp_path_factory.mktemp("site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def run_installed(code: str, installed: Path, tmp_path: Path) -> str:
    """Runs Python code with the installed package, far from the checkout and without its editable install."""
    forget = "import sys; sys.path = [p for p in sys.path if '__editable__' not in p]; sys.path_importer_cache.clear()"
    command = [sys.executable, "-c", f"{forget}\n{code}"]
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_setup_cfg_lists_every_package() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    listed = {line for line in setup["options"]["packages"].split() if line != "rulespace_configs"}
    folders = {path.parent for name in SOURCES for path in (ROOT / name).rglob("*.py")}
    assert listed == {".".join(folder.relative_to(ROOT).parts) for folder in folders}


def test_the_image_is_built_from_all_of_it() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    image = (ROOT / "launch" / "Dockerfile").read_text()
    copied = {word for words in re.findall(r"^COPY (.+) \S+$", image, re.MULTILINE) for word in words.split()}
    assert copied == {*SOURCES, *FILES}
    (extras,) = re.findall(r"^ARG EXTRAS=(.+)$", image, re.MULTILINE)
    assert {"tpu", "bucket"} <= set(extras.split(",")) <= set(setup["options.extras_require"])


def test_wheel_holds_every_module_and_gin_file(wheel: Path) -> None:
    modules = {str(path.relative_to(ROOT)) for name in SOURCES for path in (ROOT / name).rglob("*.py")}
    configs = {f"rulespace_configs/{path.relative_to(ROOT / 'gin')}" for path in (ROOT / "gin").rglob("*.gin")}
    data = {f"experiments/published/{name}" for name in ("SOURCES.md", *(f"{table}.csv" for table in PUBLISHED))}
    pages = {f"experiments/reporting/page.{kind}" for kind in ("css", "js")}
    assert content(wheel) == modules | configs | data | pages
    assert any(name.startswith("rulespace_configs/experiments/") for name in configs)


def test_source_distribution_builds_the_same_wheel(project: Path, wheel: Path, tmp_path: Path) -> None:
    shutil.unpack_archive(build(project, "sdist"), tmp_path)
    (unpacked,) = tmp_path.iterdir()
    assert content(build(unpacked, "wheel")) == content(wheel)


def test_installed_configs_are_found(installed: Path, tmp_path: Path) -> None:
    code = "from framework.config import shipped_gin_folder as f; import gin; print(f()); print(gin.__file__)"
    folder, gin_package = run_installed(code, installed, tmp_path).splitlines()
    assert Path(folder) == installed / "rulespace_configs"
    assert not Path(gin_package).is_relative_to(installed)
    assert list((Path(folder) / "experiments").glob("*.gin"))


def test_installed_tables_have_their_numbers(installed: Path, tmp_path: Path) -> None:
    code = "from experiments.cli import main; main(['table', 'procgen', '--format=csv'])"
    lines = run_installed(code, installed, tmp_path).splitlines()
    assert any(line.startswith("mean,0.000,1.000,0.412,") for line in lines)


def test_command_is_installed(installed: Path) -> None:
    (entry_points,) = installed.glob("rulespace-*.dist-info/entry_points.txt")
    assert entry_points.read_text().split() == ["[console_scripts]", "rulespace", "=", "experiments.cli:main"]


def test_metadata(installed: Path, tmp_path: Path) -> None:
    fields = ["Name", "Requires-Python", "License-Expression"]
    code = f"import importlib.metadata as m; print(*[m.metadata('rulespace')[field] for field in {fields}])"
    assert run_installed(code, installed, tmp_path) == "rulespace >=3.11 Apache-2.0"
