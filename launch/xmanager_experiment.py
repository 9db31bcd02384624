"""Experiments of XManager's local backend: its record of what was launched."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
from collections.abc import AsyncIterator
from typing import Any

from absl import flags

from framework.errors import UserError


def refuse_missing_xmanager() -> None:
    """Asked before anything is launched.

    Raises:
      UserError: XManager is not installed.
    """
    if importlib.util.find_spec("xmanager") is None:
        raise UserError("grids are run by XManager, which is not installed: pip install 'rulespace[launch]'")


@contextlib.asynccontextmanager
async def new_experiment(title: str) -> AsyncIterator[Any]:
    """An experiment of a title, in XManager's database."""
    from xmanager import xm_local

    if not flags.FLAGS.is_parsed():  # XManager's own settings are absl flags, and have defaults.
        flags.FLAGS(["rulespace"])
    async with xm_local.create_experiment(title) as experiment:
        yield experiment


async def forget_errors(experiment: Any) -> None:
    """Waits for what has been added to an experiment; XManager would raise its errors once more at the end."""
    while not experiment._running_tasks.empty():
        with contextlib.suppress(Exception):
            await asyncio.wrap_future(experiment._running_tasks.get_nowait())
