"""Settings and fixtures of the whole suite: compilation cache, golden files, published weights."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

ROOT = Path(__file__).resolve().parents[1]

# Set before anything imports jax, and inherited by subprocesses: the suite compiles each program once, ever.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
# Compiling takes most of the suite's time, and the least optimized program is just as right.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

import jax  # noqa: E402
import jaxlib.version  # noqa: E402

if jaxlib.version.__version_info__ >= (0, 10):  # Older ones do not know the flags, and would not start.
    quick = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {quick}".strip()

import components.everything  # noqa: E402, F401  # whatever a test loads may name all shipped components

# An example that compiles takes far longer than the others; the same examples in every run.
hypothesis.settings.register_profile("rulespace", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("rulespace")


def golden_folders() -> list[Path]:
    """Where golden files are: the repository's own folder, and ``$RULESPACE_GOLDEN`` or else ``../shared/golden``."""
    default = ROOT.parent / "shared" / "golden"
    named = os.environ.get("RULESPACE_GOLDEN") or (str(default) if default.is_dir() else None)
    return [ROOT / "tests" / "golden"] + ([Path(named)] if named else [])


def golden_files(kind: str) -> list[Path]:
    """Every golden file of a kind, ``<kind>.npz`` or ``<kind>_T_B_A.npz``, of all golden folders."""
    name = re.compile(rf"{re.escape(kind)}(_\d+_\d+_\d+)?\.npz")
    return [path for folder in golden_folders() for path in sorted(folder.glob("*.npz")) if name.fullmatch(path.name)]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Runs ``@pytest.mark.golden("rule") def test(golden_file)`` once for every golden file of that kind."""
    marker = metafunc.definition.get_closest_marker("golden")
    if marker is None or "golden_file" not in metafunc.fixturenames:
        return
    (kind,) = marker.args
    files: list[Path | str] = list(golden_files(kind))
    files += [f"there is no golden file in {folder}" for folder in golden_folders() if not any(folder.glob("*.npz"))]
    files = files or [f"there is no golden file {kind}_T_B_A.npz in {', '.join(map(str, golden_folders()))}"]
    ids = [f"{f.parent.name}-{f.stem}" if isinstance(f, Path) else "missing" for f in files]
    metafunc.parametrize("golden_file", files, ids=ids, indirect=True)


@pytest.fixture
def golden_file(request: pytest.FixtureRequest) -> Path:
    """One golden file; a folder without any fails the test rather than passing it unseen."""
    if not isinstance(request.param, Path):
        pytest.fail(request.param)
    return request.param


LONGEST = (
    "shipped_discoveries",
    "shipped_runs",
    "parallel",
    "discovery_resume",
    "learning",
    "worlds_resume",
    "discovery",
    "golden",
    "resume",
)
"""Files that take longest, in this order: begun first, so that no process has a long one left when others are done."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the longest files first."""

    def rank(item: pytest.Item) -> int:
        name = item.path.stem.removeprefix("test_")
        return LONGEST.index(name) if name in LONGEST else len(LONGEST)

    items.sort(key=rank)


@pytest.fixture(scope="module", autouse=True)
def programs_of_one_module() -> Iterator[None]:
    """Frees compiled programs: some thousands of them in one process use up its memory maps, and it would crash."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="session")
def disco103_weights() -> Path:
    """The published weights of Disco103; tests that need them are skipped where they are not on this machine."""
    from components import weights

    try:
        path = weights.local_file(weights.DISCO103)
    except weights.WeightsError as error:
        pytest.skip(str(error))
    if path is None:
        pytest.skip(f"{weights.DISCO103.file} is not on this machine: put it into $RULESPACE_WEIGHTS")
    return path
