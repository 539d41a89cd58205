"""What fuzzing starts from and what it found, once more; and the same targets under hypothesis."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import GOOD, TARGETS

SEEDS = Path(__file__).parent / "seeds"
FILES = sorted(p for p in SEEDS.rglob("*") if p.is_file())
BY_TARGET = {n: [p.read_bytes() for p in FILES if p.parent.name == n] for n in TARGETS}
BY_TARGET["spec"].append(GOOD.encode())

some = settings(
    max_examples=int(os.environ.get("KDGRAPH_FUZZ_EXAMPLES", "40")),
    derandomize="KDGRAPH_FUZZ_EXAMPLES" not in os.environ,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.parametrize("file", FILES, ids=lambda f: f"{f.parent.name}-{f.name}")
@pytest.mark.filterwarnings("default")
def test_seed(file: Path) -> None:
    TARGETS[file.parent.name](file.read_bytes())


def test_every_target_has_seeds() -> None:
    assert {f.parent.name for f in FILES} == set(TARGETS)


@st.composite
def near_a_seed(draw: st.DrawFn, target: str) -> bytes:
    """A seed with some pieces cut out, doubled, flipped or replaced."""
    data = draw(st.sampled_from(BY_TARGET[target]))
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 40)))
        piece = draw(
            st.sampled_from([b"", data[start:end] * 2, data[start:end][::-1]])
            | st.binary(max_size=8)
            | st.text(max_size=8).map(lambda t: t.encode("utf-8", "surrogatepass"))
        )
        data = data[:start] + piece + data[end:]
    return data


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.filterwarnings("default")
def test_near_seeds(target: str) -> None:
    @some
    @given(near_a_seed(target))
    def run(data: bytes) -> None:
        TARGETS[target](data)

    run()


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=6)
    | st.sampled_from(["float32", "top_k", "__loader__", "a.b", "../x", "B"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=6,
)


def parts(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a value of JSON."""
    found = [path]
    if isinstance(value, dict | list):
        inner = value.items() if isinstance(value, dict) else enumerate(value)
        found += [p for key, v in inner for p in parts(v, (*path, key))]
    return found


@some
@given(st.data())
def test_any_value_in_a_header(data: st.DataObject) -> None:
    """Of a book, whose checksums are right for it."""
    said = [json.loads(part) for part in (SEEDS / "book" / "small").read_bytes().split(b"\n\n")]
    which = data.draw(st.integers(0, 1))
    *path, last = data.draw(st.sampled_from([p for p in parts(said[which]) if p]))
    node = said[which]
    for key in path:
        node = node[key]
    node[last] = data.draw(values)
    TARGETS["book"]("\n\n".join(map(json.dumps, said)).encode("utf-8", "replace"))
