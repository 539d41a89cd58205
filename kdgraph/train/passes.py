"""Whether several passes of a model say more than one."""

from __future__ import annotations

from collections.abc import Collection

from kdgraph.capture.liveness import is_random
from kdgraph.errors import DataError, KDGraphError
from kdgraph.models.load import build_skeleton
from kdgraph.spec.language import Spec
from kdgraph.train.data._load import eval_loader
from kdgraph.train.data.base import DataSet, Splits
from kdgraph.train.score import find_score


def check_passes(spec: Spec, data: DataSet, splits: Splits, trust: Collection[str]) -> None:
    """Looks for what is random in the student that ``evaluate: {passes: K}`` is about.

    Other models, which are scored to compare, may have one answer in all passes.

    Raises:
        DataError: KD409 when nothing in it is random.
    """
    score = find_score(spec)
    model = spec.models[score.model]
    if score.passes is None or model.source is None:
        return
    try:
        net = build_skeleton(model.source, model.args, trust=trust)
    except KDGraphError:  # told with its place, or downloaded, when the spec is compiled
        return
    row = eval_loader(splits.val, data).dataset[0, 0, [0]]
    score.ready(net, row)
    if not is_random(net, score.given(net, row)):
        raise DataError.of(
            "KD409",
            f"{score.model!r} is scored by {score.passes} passes, but nothing in it is random",
            span=spec.span("train", "evaluate", "passes"),
            help="give its source a rate (`args: {drop_rate: 0.2}` in timm), or leave `passes` out",
        )
