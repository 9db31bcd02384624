"""Every other shipped experiment takes two steps in small."""

from __future__ import annotations

from pathlib import Path

import pytest
from shipped import OTHERS, assert_runs


@pytest.mark.parametrize("name", OTHERS)
def test_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert_runs(name, tmp_path / "run")
