"""Every spec that ships: a step on what its teachers said is the step with its teachers."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

import kdgraph
from kdgraph.book import Column
from kdgraph.networks import build_networks
from kdgraph.spec.booked import book_entries, with_book
from kdgraph.spec.frontier import stored
from kdgraph.teachers import compile_teachers
from tests.test_specs import SMALL, random_batch

TAUGHT = [path for path in SMALL if stored(kdgraph.load_spec(path))]


@pytest.mark.parametrize("path", TAUGHT, ids=[p.stem for p in TAUGHT])
def test_a_step_without_teachers_is_bit_equal(path: Path) -> None:
    spec, batch = kdgraph.load_spec(path), random_batch(kdgraph.load_spec(path))
    torch.manual_seed(0)
    nets = build_networks(spec, {}, ())
    nets = {name: net for name, net in nets.items() if spec.models[name].snapshot_of is None}
    side = compile_teachers(spec, list(stored(spec)), models=nets)
    side.look(batch)
    columns = [Column(ref, shape) for ref, shape in side.shapes.items()]
    values, entries = side(**batch), book_entries(spec, columns)

    booked = with_book(spec, columns)
    losses = []
    for one in (spec, booked):
        own = {n: copy.deepcopy(net) for n, net in nets.items() if n in one.models}
        torch.manual_seed(1)
        step = kdgraph.compile(one, models=own)
        given = {n: v for n, v in batch.items() if n in one.batch}
        given |= {entries[ref]: v for ref, v in values.items() if one is booked}
        torch.manual_seed(2)
        losses.append(step(**given).loss)
    assert torch.equal(*losses)
