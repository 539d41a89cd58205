from __future__ import annotations

from importlib.util import find_spec

if not (find_spec("transformers") and find_spec("peft")):
    collect_ignore_glob = ["test_*.py"]
