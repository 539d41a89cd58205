"""Hostile input put to the commands of kdgraph, many in one process, and what is asked of each."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SECONDS, BYTES = 2.0, 500 << 20  # of CPU, and over what reading a fine spec takes
_PROGRAM = Path(__file__).with_name("_pressed.py")

FINE = """\
kdgraph: 1
name: fine
batch:
  image: {shape: [B, 1, 8, 8]}
  label: {shape: [B], dtype: int64, classes: 10}
models:
  teacher:
    source: cifar/resnet8
    args: {in_channels: 1, width: 0.25}
    taps: {mid: layer2, logits: output}
  student:
    source: cifar/resnet8
    args: {in_channels: 1, width: 0.25}
    taps: {mid: layer2, logits: output}
losses:
  label: {use: cross_entropy, student: student.logits, target: label}
  soft: {use: soft_target, student: student.logits, teacher: teacher.logits, tau: 4}
"""


@dataclass(frozen=True)
class Outcome:
    """What became of one command.

    Attributes:
        code: its exit status, negative for the signal that ended it.
        hung: whether it had to be ended.
        cpu: seconds, imports left out.
        over: bytes at the peak, over the peak of a fine command.
        new: files that were not there before, and those whose content changed.
    """

    code: int
    hung: bool
    cpu: float
    over: int
    out: str
    err: str
    new: tuple[str, ...] = ()

    @property
    def codes(self) -> list[str]:
        """The codes of the errors, in order."""
        return re.findall(r"^(?:.*: )?error\[(KD\d+)\]: ", self.err, re.MULTILINE)

    def assert_refused(self, code: str, said: str = "", errors: int | None = 1) -> None:
        """One clear error, in bounded time and memory, and nothing left behind."""
        assert not self.hung, "it hangs"
        assert self.code == 1, (self.code, self.err[-2000:])
        assert "Traceback" not in self.err
        assert self.codes == [code] if errors == 1 else code in self.codes, self.err[:2000]
        assert re.search(said, self.err), self.err[:2000]
        assert self.new == ()
        self.assert_bounded()

    def assert_bounded(self) -> None:
        """Seconds of CPU and bytes, whatever came of it."""
        assert not self.hung, "it hangs"
        assert self.cpu < SECONDS
        assert self.over < BYTES


def press(
    scratch: Path, cases: Sequence[tuple[Path, Sequence[str]]], fine: Sequence[str] = ()
) -> list[Outcome]:
    """Runs each command in its folder.

    Args:
        scratch: a folder for what is needed besides.
        cases: the folder and the arguments of ``kdgraph`` for each.
        fine: arguments that are right, run in ``scratch`` before; what they import and take
            counts for none of the others. Left out: the check of a fine spec.
    """
    (scratch / "fine.yaml").write_text(FINE, encoding="utf-8")
    told: list[Mapping[str, Any]] = [
        {"folder": str(scratch), "argv": [*(fine or ("check", "fine.yaml"))]}
    ]
    told += [{"folder": str(folder), "argv": [*argv]} for folder, argv in cases]
    listed = scratch / "cases.json"
    listed.write_text(json.dumps(told), encoding="utf-8")
    before = [_content(folder) for folder, _ in cases]
    done = subprocess.run(
        [sys.executable, str(_PROGRAM), str(listed)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return [
        Outcome(**one, new=_changed(folder, held))
        for one, (folder, _), held in zip(found, cases, before, strict=True)
    ]


def _content(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file below a folder, with what changes when it is written."""
    return {
        str(p.relative_to(folder)): (p.lstat().st_size, p.lstat().st_mtime_ns)
        for p in folder.rglob("*")
        if p.is_symlink() or not p.is_dir()
    }


def _changed(folder: Path, before: dict[str, tuple[int, int]]) -> tuple[str, ...]:
    after = _content(folder)
    return tuple(name for name in after | before if after.get(name) != before.get(name))
