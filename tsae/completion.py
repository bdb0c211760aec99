"""Completion of the command line by shells: scripts that shtab writes from the parser. Nothing else imports shtab."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from tsae.errors import InputError

SHELLS = ("bash", "zsh", "fish")

PATHS = {"archive", "data", "input", "model", "originals", "out", "output", "repair", "root", "start"}
"""Arguments that may name a file. Keys are not completed: a shell takes what is completed for code, and keys may come from
anywhere."""


def completion_script(parser: argparse.ArgumentParser, shell: str) -> str:
    """What a shell is to source.

    Args:
        parser: Of the program; its arguments that name files are marked.
        shell: One of `SHELLS`.

    Raises:
        InputError: if shtab is not installed.
    """
    try:
        import shtab
    except ImportError as error:
        raise InputError("completion needs an extra: pip install 'tsae[completion]'") from error
    _mark_paths(parser, shtab.FILE)
    return str(shtab.complete(parser, shell))


def _mark_paths(parser: argparse.ArgumentParser, how: Mapping[str, Any]) -> None:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                _mark_paths(command, how)
        elif action.dest in PATHS and not action.choices:
            action.complete = how  # type: ignore[attr-defined]
