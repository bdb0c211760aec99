"""Completion in a real bash, by the script that users source."""

from __future__ import annotations

import builtins
import importlib.util
import subprocess
from pathlib import Path

import pytest

from tsae.cli import main

needs_shtab = pytest.mark.skipif(importlib.util.find_spec("shtab") is None, reason="needs the extra `completion`")

ASK = """
source "$1"
complete -p tsae | grep -q -- '-F _shtab_tsae' || exit 9
COMP_WORDS=("${@:2}")
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
COMP_LINE="${COMP_WORDS[*]}"
COMP_POINT=${#COMP_LINE}
_shtab_tsae tsae "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


def script(shell: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["completion", shell]) == 0
    return capsys.readouterr().out


@needs_shtab
@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["complet"], {"completion"}),
        (["sh"], {"sheet"}),
        (["ls", "signs-archive", "--min-p"], {"--min-psnr", "--min-px"}),
        (["ls", "signs-archive", "--sort", "p"], {"position", "psnr"}),
        (["get", "signs-archive", "key.png", "--format", "w"], {"webp"}),
        (["ls", "sig"], {"signs-archive", "signs.txt"}),
        (["sheet", "signs-archive", "--originals", "signs."], {"signs.txt"}),
        (["completion", "z"], {"zsh"}),
        (["evalu"], {"evaluate"}),
        (["evaluate", "signs-archive", "--or"], {"--originals"}),
        (["compress", "in", "out", "--keep"], {"--keep-readable"}),
    ],
)
def test_bash_completes(tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], offered: set[str]) -> None:
    (tmp_path / "completion.bash").write_text(script("bash", capsys))
    (tmp_path / "signs-archive").mkdir()
    (tmp_path / "signs.txt").touch()
    command = ["bash", "--norc", "--noprofile", "-c", ASK, "ask", "completion.bash", "tsae", *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert {line.strip() for line in done.stdout.splitlines()} == offered


@needs_shtab
@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_get_a_script_that_names_every_command(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = script(shell, capsys)
    assert all(name in found for name in ("compress", "sheet", "min-psnr", "completion"))


def test_without_shtab_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    real = builtins.__import__

    def refuse(name: str, *rest: object) -> object:
        if name == "shtab":
            raise ImportError(name)
        return real(name, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", refuse)
    assert main(["completion", "bash"]) == 2
    assert "pip install 'tsae[completion]'" in capfd.readouterr().err
