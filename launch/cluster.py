"""Reads the description of a cluster: an ml_collections config file, with settings of the command line."""

from __future__ import annotations

import os
import re
import runpy
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_dict, config_flags

from framework.errors import UserError, closest, did_you_mean

_SHIPPED = Path(__file__).resolve().parent / "clusters"


def read_cluster(file: str, settings: Sequence[str], *, default: str) -> config_dict.ConfigDict:
    """A cluster, complete.

    Args:
      file: path of a config file, or the name of a shipped one; empty for the default.
      settings: ``x=y``, each replacing a setting.
      default: name of a shipped one.

    Raises:
      UserError: there is no such file, it does not load, has no such setting, or leaves a required one open.
    """
    path = _path(file or default)
    own = _loaded(path, ())
    _refuse_unknown_settings(path, own, settings)
    cluster = _loaded(path, settings)
    missing = [name for name, value in cluster.items() if value is None or (value == "" and own[name] is None)]
    if missing:
        wanted = " ".join(f"--cluster.{name}=..." for name in missing)
        raise UserError(
            f"{_shown(path)} leaves {', '.join(missing)} open: add {wanted}, or copy the file and fill it in"
        )
    return cluster


def _refuse_unknown_settings(path: Path, cluster: config_dict.ConfigDict, settings: Sequence[str]) -> None:
    for name in (setting.partition("=")[0] for setting in settings):
        if re.split(r"[.\[]", name)[0] not in cluster:  # One may be a part of another: a.b=1.
            guess = did_you_mean(closest(name, cluster))
            raise UserError(f"{_shown(path)} has no setting '{name}'.{guess} There are {', '.join(cluster)}.")


def _loaded(path: Path, settings: Sequence[str]) -> config_dict.ConfigDict:
    values = flags.FlagValues()
    words = ["cluster", *(f"--cluster.{setting}" for setting in settings)]
    try:
        config_flags.DEFINE_config_dict("cluster", _described(path), flag_values=values, sys_argv=words)
        values(words)
        cluster: config_dict.ConfigDict = values.cluster
    except (flags.Error, AttributeError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{_shown(path)}: {_one_line(error)}") from None
    return cluster


def _described(path: Path) -> config_dict.ConfigDict:
    """What ``get_config()`` of a file returns. ml_collections would answer some errors in it with a traceback."""
    try:
        get_config = runpy.run_path(str(path)).get("get_config")
        described = get_config() if callable(get_config) else None
    except OSError as error:
        raise UserError(f"{_shown(path)} cannot be read: {error.strerror}") from error
    except Exception as error:  # Whatever a user's own file does wrong.
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
        place = _shown(path) if line is None else f"{_shown(path)}, line {line}"
        raise UserError(": ".join(filter(None, (place, type(error).__name__, _one_line(error))))) from error
    if not isinstance(described, config_dict.ConfigDict):
        raise UserError(f"{_shown(path)} has no get_config() that returns a ConfigDict: see launch/clusters/")
    return described


def settings_of(cluster: config_dict.ConfigDict, *names: str) -> dict[str, Any]:
    """The settings a place needs.

    Raises:
      UserError: the file describes another kind of cluster.
    """
    lacking = [name for name in names if name not in cluster]
    if lacking:
        raise UserError(f"the cluster file has no {', '.join(lacking)}: does it describe another kind of cluster?")
    return {name: cluster[name] for name in names}


def _path(file: str) -> Path:
    shipped = {path.stem: path for path in _SHIPPED.glob("*.py") if path.stem != "__init__"}
    if os.path.isfile(file):
        return Path(file)
    if file in shipped:
        return shipped[file]
    guess = did_you_mean(closest(file, shipped))
    raise UserError(f"there is no cluster file '{file}'.{guess} Shipped are {', '.join(sorted(shipped))}.")


def _shown(path: Path) -> str:
    return f"cluster {path.stem}" if path.parent == _SHIPPED else str(path)


def _one_line(error: BaseException) -> str:
    """ml_collections writes over several lines, and quotes what it quotes."""
    text = re.sub(r"\s+", " ", str(error).replace("\\n", " ").replace("\\'", "'")).strip()
    return text[1:-1] if text[:1] == text[-1:] and text.startswith(("'", '"')) else text
