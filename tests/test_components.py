"""Conformance: every registered component does what its kind asks for, and what does not is found out."""

from __future__ import annotations

from pathlib import Path

import pytest

import components
from framework import testing

__all__ = ["components"]


@pytest.mark.parametrize(("kind", "cls"), testing.registered("components", "framework"))
def test_conformance(kind: str, cls: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RULESPACE_WEIGHTS", str(tmp_path))  # Nothing is fetched for a test.
    testing.check_component(kind, cls)
