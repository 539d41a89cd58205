from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kdgraph.errors import SpecError
from kdgraph.spec.read import load_spec


@pytest.fixture
def good() -> str:
    """A spec without mistakes, as text."""
    return (Path(__file__).parent / "good.yaml").read_text(encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to write specs into, the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def errors() -> Callable[..., list[str]]:
    """What a spec is refused for: ``CODE place message`` of each error."""

    def read(source: object, set: tuple[str, ...] = ()) -> list[str]:
        with pytest.raises(SpecError) as caught:
            load_spec(source, set)  # type: ignore[arg-type]
        return [f"{d.code} {d.span} {d.message}" for d in caught.value.diagnostics]

    return read
