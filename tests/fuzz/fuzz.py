"""``fuzz.py TARGET SECONDS``: feeds changed seeds to one target, guided by which code they reach.

What it finds is left in ``runs/fuzz/TARGET``; a crash belongs into ``tests/fuzz/seeds/TARGET`` once
it is mended.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import atheris

_HERE = Path(__file__).resolve().parent
_ROOT = _HERE.parents[1]


def main() -> None:
    """Runs until the time is up or an input crashes, hangs or takes too much memory."""
    name, seconds = sys.argv[1], int(sys.argv[2])
    sys.path.insert(0, str(_ROOT))
    with atheris.instrument_imports(include=["kdgraph", "yaml"]):
        from tests.fuzz.targets import GOOD, TARGETS
    found = _ROOT / "runs" / "fuzz" / name
    corpus = found / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for seed in (_HERE / "seeds" / name).iterdir():
        shutil.copy(seed, corpus)
        TARGETS[name](seed.read_bytes())  # what is imported on first use takes long
    if name == "spec":
        (corpus / "good").write_text(GOOD, encoding="utf-8")
    options = [f"-max_total_time={seconds}", "-timeout=20", "-rss_limit_mb=3000"]
    options += [
        f"-artifact_prefix={found}/",
        "-print_final_stats=1",
        "-max_len=4096",
        "-verbosity=0",
    ]
    atheris.Setup([sys.argv[0], *options, str(corpus)], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
