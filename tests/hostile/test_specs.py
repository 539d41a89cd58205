"""Specs made to hurt, through ``kdgraph check``: one clear error each, and no harm."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.hostile.press import FINE, Outcome, press

SECRET = "s3cret-that-no-error-may-show"


class Case(NamedTuple):
    """A folder with what is in it, and what is to come of ``kdgraph check spec.yaml``."""

    spec: str | bytes
    code: str
    said: str = ""
    files: dict[str, str | bytes] = {}
    links: dict[str, str] = {}
    more: Sequence[str] = ()
    errors: int | None = 1


def fine(old: str = "", new: str = "") -> str:
    assert old in FINE
    return FINE.replace(old, new, 1)


def extending(path: str) -> str:
    return f"extends: {path}\nkdgraph: 1\n"


def chain(length: int) -> dict[str, str]:
    """Files that extend each other in a row, the first ``0.yaml``."""
    return {f"{i}.yaml": extending(f"{i + 1}.yaml") for i in range(length)} | {
        f"{length}.yaml": FINE
    }


def alike(length: int, count: int) -> str:
    """Models whose names are hard to tell apart, and as many references to others like them."""
    chance = random.Random(0)

    def name() -> str:
        return "n" + "".join(chance.choice("ab") for _ in range(length))

    models = "".join(f"  {name()}: {{taps: {{x: output}}}}\n" for _ in range(count))
    losses = "".join(
        f"  l{i}: {{use: soft_target, student: {name()}.x, teacher: {name()}.x}}\n"
        for i in range(count)
    )
    return fine("models:\n", f"models:\n{models}") + losses


CASES: dict[str, Case] = {
    # --- text
    "one scalar of 10 MB": Case(fine("name: fine", "name: " + "x" * 10_000_000), "KD102", "256"),
    "10 MB of keys": Case("".join(f"key{i}: 1\n" for i in range(900_000)), "KD102"),
    "10 MB of losses": Case(
        FINE + "".join(f"  l{i}: {{use: hint, link: mid}}\n" for i in range(350_000)), "KD102"
    ),
    "10 MB of zeros": Case(b"\0" * 10_000_000, "KD102"),
    "merge keys": Case(fine("name: fine", "name: fine\n<<: {name: a}"), "KD108", "merge keys"),
    "bomb of merge keys": Case(
        "a: &a {x: 1}\n" + "".join(f"b{i}: {{<<: [*a, *a]}}\n" for i in range(50)),
        "KD108",
        errors=None,
    ),
    "10,000 levels in brackets": Case("a: " + "[" * 10_000 + "]" * 10_000, "KD102", "64 levels"),
    "10,000 levels in braces": Case("{a: " * 10_000 + "1" + "}" * 10_000, "KD102", "64 levels"),
    "300 levels in blocks": Case(
        "".join(" " * i + "a:\n" for i in range(300)) + " " * 300 + "b", "KD102", "64 levels"
    ),
    "UTF-16 with a mark": Case(FINE.encode("utf-16"), "KD101", "UTF-16"),
    "UTF-32 with a mark": Case(FINE.encode("utf-32"), "KD101", "UTF-32"),
    "Latin-1": Case(
        fine("name: fine", "name: caf\xe9").encode("latin-1"), "KD101", "spec.yaml:2:10"
    ),
    "a NUL": Case(fine("name: fine", "name: fi\0ne"), "KD109", r"U\+0000"),
    "a NUL by escape": Case(fine("name: fine", 'name: "fi\\0ne"'), "KD109", r"U\+0000"),
    "an escape of terminals": Case(fine("fine", '"\\e]0;owned\\a"'), "KD109", r"U\+001B"),
    "a C1 escape of terminals": Case(fine("fine", '"\\u009b31m"'), "KD109", r"U\+009B"),
    "right to left": Case(fine("name: fine", "name: fine \u202eenif"), "KD109", "RIGHT-TO-LEFT"),
    "right to left by escape": Case(fine("fine", '"\\u202e"'), "KD109", "RIGHT-TO-LEFT"),
    "nothing wide": Case(fine("student:\n", "stu\u200bdent:\n"), "KD109", "ZERO WIDTH SPACE"),
    "a tab": Case(fine("  label: {shape", "\tlabel: {shape"), "KD103", "tab"),
    "100,000 digits": Case(fine("tau: 4", "tau: " + "4" * 100_000), "KD107", "40 digits"),
    "hex of 100,000 digits": Case(fine("tau: 4", "tau: 0x" + "4" * 100_000), "KD107", "40 digits"),
    "100,000 digits in quotes": Case(
        fine("tau: 4", "tau: '" + "4" * 100_000 + "'"), "KD112", "spec.yaml:17:"
    ),
    "sexagesimal": Case(fine("tau: 4", "tau: 1:30:00"), "KD112", "1:30:00"),
    "1e999": Case(fine("tau: 4", "tau: 1e999"), "KD107", "too large"),
    "a weight of nan": Case(fine("tau: 4", "weight: .nan"), "KD107", "finite"),
    "a weight of inf": Case(fine("tau: 4", "weight: -.inf"), "KD107", "finite"),
    "a python tag": Case(
        fine("name: fine", "name: !!python/object/apply:os.system ['touch pwned']"),
        "KD105",
        "python/object",
    ),
    "a python tag on a mapping": Case(
        fine("args: {in_channels", "args: !!python/object/new:os._wrap_close {in_channels"), "KD105"
    ),
    "a key twice": Case(fine("name: fine", "name: fine\nname: other"), "KD104", "line 2"),
    "a key of 1,000 letters": Case(
        fine("name: fine", "name: fine\n" + "k" * 1000 + ": 1"), "KD110"
    ),
    "a name of 1,000 letters": Case(
        fine("  student:", "  " + "k" * 1000 + ":"), "KD202", errors=None
    ),
    # --- names that look like others
    "a Cyrillic model": Case(
        fine("  student:", "  stud\u0435nt:"),
        "KD116",
        r"U\+0435 CYRILLIC SMALL LETTER IE",
        errors=None,
    ),
    "a Cyrillic tap in a reference": Case(
        fine("student: student.logits, target", "student: student.l\u043egits, target"),
        "KD112",
        r"U\+043E CYRILLIC SMALL LETTER O",
    ),
    "a Cyrillic path of a tap": Case(
        fine("taps: {mid: layer2", "taps: {mid: l\u0430yer2"),
        "KD401",
        r"U\+0430 CYRILLIC SMALL LETTER A",
    ),
    "a Cyrillic source": Case(
        fine("source: cifar/resnet8", "source: cifar/r\u0435snet8"),
        "KD411",
        r"U\+0435 CYRILLIC SMALL LETTER IE",
    ),
    "a Cyrillic use": Case(
        fine("use: cross_entropy", "use: cr\u043ess_entropy"),
        "KD201",
        r"U\+043E CYRILLIC SMALL LETTER O",
    ),
    "a reference of 100,000 letters": Case(
        fine("target: label", "target: " + "l" * 100_000), "KD202", r"llll \.\.\. llll"
    ),
    "names of 190 letters that are alike": Case(alike(190, 190), "KD202", errors=None),
    "names of 79 letters that are alike": Case(alike(79, 190), "KD202", errors=None),
    # --- numbers
    "negative epochs": Case(
        FINE + "train: {epochs: -3, optimizer: {use: SGD, lr: 0.1}}\n", "KD113", "epochs"
    ),
    "epochs without end": Case(
        FINE + f"train: {{epochs: {10**18}, optimizer: {{use: SGD, lr: 0.1}}}}\n", "KD113", "epochs"
    ),
    "a batch of terabytes": Case(
        fine("[B, 1, 8, 8]", "[B, 1, 1000000000, 1000000000]"), "KD115", "image"
    ),
    "a batch without a free size, of terabytes": Case(
        fine("[B, 1, 8, 8]", "[1000000, 1, 1000000, 1000]"), "KD115", "image"
    ),
    "a size of 30 digits": Case(fine("[B, 1, 8, 8]", f"[B, 1, 8, {10**30}]"), "KD113"),
    "classes beyond counting": Case(fine("classes: 10", f"classes: {10**30}"), "KD113", "classes"),
    "a wide student": Case(fine("width: 0.25", f"width: {10**9}"), "KD413", "teacher|resnet8"),
    "too many classes for a head": Case(
        fine("{in_channels: 1, width: 0.25}", f"{{in_channels: 1, num_classes: {10**12}}}"), "KD413"
    ),
    "a billion passes": Case(
        fine("    source: cifar/resnet8\n", "    source: cifar/resnet8\n    passes: 1000000000\n"),
        "KD113",
        "1000",
    ),
    "10,000 stages": Case(
        FINE + "stages:\n" + "".join(f"- {{name: s{i}}}\n" for i in range(10_000)),
        "KD102",
        "values|stages",
    ),
    # --- extends
    "a file that extends itself": Case(extending("spec.yaml"), "KD120", "extend each other"),
    "a circle of files": Case(
        extending("a.yaml"),
        "KD120",
        "spec.yaml -> a.yaml -> b.yaml",
        {"a.yaml": extending("b.yaml"), "b.yaml": extending("spec.yaml")},
        errors=None,
    ),
    "a circle by a link": Case(
        extending("again.yaml"), "KD120", "extend each other", links={"again.yaml": "spec.yaml"}
    ),
    "a circle by a link to the folder": Case(
        extending("here/spec.yaml"), "KD120", "extend each other", links={"here": "."}
    ),
    "a link to itself": Case(
        extending("loop.yaml"), "KD100", "loop.yaml", links={"loop.yaml": "loop.yaml"}
    ),
    "a long chain": Case(extending("0.yaml"), "KD120", "more than 32", chain(60)),
    "a wide and deep tree of files": Case(
        "extends: [" + ", ".join(["a.yaml"] * 3000) + "]\nkdgraph: 1\n",
        "KD120",
        "more than",
        {"a.yaml": FINE},
    ),
    "a folder": Case(extending("folder.yaml"), "KD100", "folder", {"folder.yaml/x": ""}),
    "a device without end": Case(extending("/dev/zero"), "KD120", "spec.yaml:1:10: .*/dev/zero"),
    "the keyboard": Case(extending("/dev/stdin"), "KD120", "spec.yaml:1:10"),
    "a link to a device": Case(
        extending("zero.yaml"), "KD100", "regular file", links={"zero.yaml": "/dev/zero"}
    ),
    "a pipe": Case(extending("pipe.yaml"), "KD100", "regular file", {"pipe.yaml": b"FIFO"}),
    "a file that is no spec": Case(
        extending("../outside/passwd"), "KD120", ".yaml", {"../outside/passwd": f"root: {SECRET}"}
    ),
    "another kind of yaml": Case(
        extending("../outside/secrets.yaml"),
        "KD120",
        "kdgraph: 1",
        {"../outside/secrets.yaml": f"password: {SECRET}\ntoken: {SECRET}\n"},
    ),
    "broken yaml of another kind": Case(
        extending("secrets.yaml"), "KD120", "kdgraph: 1", {"secrets.yaml": f"- {SECRET}: ["}
    ),
    "what is not even text": Case(
        extending("secrets.yaml"), "KD120", "kdgraph: 1", {"secrets.yaml": SECRET.encode("utf-16")}
    ),
    "a link to what is no spec": Case(
        extending("base.yaml"),
        "KD120",
        "kdgraph: 1",
        {"../outside/key": f"{SECRET}\n"},
        links={"base.yaml": "../outside/key"},
    ),
    # --- weights
    "weights of a device": Case(
        fine("    args: {in", "    weights: /dev/zero\n    args: {in"), "KD415", "/dev/zero"
    ),
    "weights of a pipe": Case(
        fine("    args: {in", "    weights: p.pt\n    args: {in"),
        "KD415",
        "p.pt",
        {"p.pt": b"FIFO"},
    ),
    "weights that are a secret": Case(
        fine("    args: {in", "    weights: ../../../../etc/passwd\n    args: {in"),
        "KD415",
        "passwd",
    ),
    # --- the command line
    "an override of 300 kB": Case(FINE, "KD102", more=["--set", "name=" + "x" * 300_000]),
    "an override 10,000 deep": Case(FINE, "KD102", more=["--set", "a." * 10_000 + "a=1"]),
    "an override in 10,000 brackets": Case(FINE, "KD102", more=["--set", "name=" + "[" * 10_000]),
    "an override with a tag": Case(FINE, "KD105", more=["--set", "name=!!python/name:os.system x"]),
    "an override of a bomb": Case(
        FINE,
        "KD102",
        more=[
            "--set",
            "name=[&a [x,x,x,x,x,x,x,x,x,x]"
            + "".join(f", &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 10)}]" for i in range(9))
            + "]",
        ],
    ),
    "an override that steers the terminal": Case(FINE, "KD109", more=["--set", "name=\x1b[31m"]),
    "an override whose path steers it": Case(
        FINE, "KD122", more=["--set", "losses.\x1b[31m.tau=1"]
    ),
    "an override that is no text": Case(FINE, "KD109", more=["--set", "name=\udcff"]),
    "an override that extends": Case(
        FINE, "KD110", "extends", {"a.yaml": f"x: {SECRET}"}, more=["--set", "extends=a.yaml"]
    ),
}


def lay(folder: Path, case: Case) -> None:
    """Writes what a case needs."""
    folder.mkdir(parents=True)
    for name, content in {"spec.yaml": case.spec, **case.files}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content == b"FIFO":
            os.mkfifo(path)
        else:
            path.write_bytes(content.encode() if isinstance(content, str) else content)
    for name, target in case.links.items():
        (folder / name).symlink_to(target)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """What ``kdgraph check`` makes of each case."""
    scratch = tmp_path_factory.mktemp("specs")
    runs = []
    for number, case in enumerate(CASES.values()):
        folder = scratch / str(number) / "at"
        lay(folder, case)
        runs.append((folder, ["check", "spec.yaml", *case.more]))
    return dict(zip(CASES, press(scratch, runs), strict=True))


@pytest.mark.parametrize("name", CASES)
def test_one_clear_error(name: str, outcomes: dict[str, Outcome]) -> None:
    found, case = outcomes[name], CASES[name]
    found.assert_refused(case.code, case.said, case.errors)
    assert SECRET not in found.err + found.out
    printed = (found.err + found.out).replace("\n", "")
    assert printed.isprintable(), [c for c in printed if not c.isprintable()]
    assert len(found.err) < 1_000_000
