"""A stage of ``train``, or all of it where there is only one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from kdgraph.importers._draft import Draft, is_path
from kdgraph.importers._tagged import At
from kdgraph.importers._torchdistill.criteria import read_criterion
from kdgraph.importers._torchdistill.known import Network
from kdgraph.importers._torchdistill.sides import Side
from kdgraph.importers._torchdistill.training import read_loader, read_optimizer, read_scheduler
from kdgraph.importers._torchdistill.wrappers import add_adaptations, add_wrapper

_FORWARD = ("forward_all", "forward_batch_only", "forward_batch_only_as_kwargs",
            "forward_batch_as_kwargs")  # fmt: skip
_KEYS = {"teacher": ("teacher",), "student": ("student", "model")}
_CODE = (
    "pre_epoch_process", "pre_forward_process", "post_forward_process", "post_epoch_process",
)  # fmt: skip


@dataclass
class Stage:
    """What a stage became.

    Attributes:
        name: as the file has it; ``train`` where there is only one.
        at: where it stands.
        edges: the edges of its sum.
        epochs: its length.
        optimizer: as a spec has it; None where there is none like it.
        scheduler: the same.
        batch_size: rows of a batch, where they are written.
        workers: processes that load batches, where they are written.
        sides: the models as it has them.
        data: what its loaders of training and validation read.
        train: keys of the ``train`` block that it sets.
    """

    name: str
    at: At
    edges: list[str] = field(default_factory=list)
    epochs: int = 1
    optimizer: dict[str, Any] | None = None
    scheduler: dict[str, Any] | None = None
    batch_size: int | None = None
    workers: int | None = None
    sides: dict[str, Side] = field(default_factory=dict)
    data: tuple[str | None, str | None] = (None, None)
    train: dict[str, Any] = field(default_factory=dict)


def read_stage(
    name: str, at: At, before: Stage | None, networks: dict[str, Network], draft: Draft
) -> Stage:
    """Reads a stage and adds its edges to the draft.

    Args:
        name: what it is called.
        at: the mapping that holds its optimiser, criterion and so on.
        before: the stage before it, from which it has what it does not say.
        networks: the models, by their names in the spec.
        draft: what it goes into.

    Raises:
        SpecError: KD123 or KD124; something is missing or of the wrong kind.
    """
    stage = Stage(name, at)
    at.ledger.take(at.path)
    epochs = at.need("num_epochs")
    stage.epochs = epochs.count()
    draft.carry(epochs, "epochs")
    _loaders(stage, before, draft)
    for role in networks:
        config = at.get(*_KEYS[role])
        kept = before.sides.get(role) if before is not None else None
        if config is None and kept is not None:
            stage.sides[role] = kept
            why = "it stays as it was in the stage before; torchdistill trains all of it again"
            if kept.frozen or not kept.trainable:
                draft.differs(at, f"the {role} of {name}", why)
        else:
            stage.sides[role] = _side(role, config, networks[role], draft)
    stage.edges = read_criterion(at.need("criterion"), stage.sides, stage.batch_size, draft)
    _optimisation(stage, before, draft)
    for key in _CODE:
        if (code := at.get(key)) is not None:
            draft.leave(code, "a function of code", "it would have to be run")
    return stage


def _loaders(stage: Stage, before: Stage | None, draft: Draft) -> None:
    found: list[str | None] = list(before.data) if before is not None else [None, None]
    stage.batch_size = before.batch_size if before is not None else None
    for index, key in enumerate(("train_data_loader", "val_data_loader")):
        loader = stage.at.get(key)
        if loader is None:
            continue
        chosen = loader.get("dataset_id")
        if chosen is not None:
            found[index] = str(chosen.read())
            draft.carry(chosen, "data")
        if index == 0:
            said = read_loader(loader, draft)
            stage.batch_size = said.batch_size or stage.batch_size
            stage.workers = said.workers
        else:
            why = "evaluation has the batch size of training, and sees every row once"
            draft.leave(loader, "how validation rows are loaded", why)
    stage.data = (found[0], found[1])


def _side(role: str, at: At | None, network: Network, draft: Draft) -> Side:
    """A model as a stage has it; what the stage does not say is as torchdistill has it."""
    side = Side(role, network, draft)
    if at is None:
        side.trainable = True
        return side
    at.ledger.take(at.path)
    if (row := at.get("sequential")) is not None:
        side.sequential = row.texts()
        why = "the model stays whole, and what no edge needs is cut when it is compiled"
        draft.carry(row, f"nothing: {why}")
    add_adaptations(at.get("adaptations"), side, draft)
    if (wrapper := at.get("auxiliary_model_wrapper", "special")) is not None:
        add_wrapper(wrapper, side, draft)
    grad = at.get("requires_grad")
    side.trainable = grad.flag() if grad is not None else True
    if grad is not None:
        draft.carry(grad, f"whether {role} is trained")
    if (frozen := at.get("frozen_modules")) is not None:
        _freeze(frozen, side, draft)
    if (hooks := at.get("forward_hook")) is not None:
        draft.carry(hooks, "taps, where an edge reads them", whole=True)
    if (call := at.get("forward_proc")) is not None:
        name = call.text()
        if name in _FORWARD:
            draft.carry(call, f"models.{role}.input")
        else:
            draft.leave(call, f"the function {name}", "a model reads entries of the batch alone")
    if (spread := at.get("wrapper")) is not None:
        why = "how a model is spread over devices is said where it is trained"
        draft.leave(spread, "a wrapper for devices", why)
    return side


def _freeze(at: At, side: Side, draft: Draft) -> None:
    """Modules that are not trained; the whole model, where its wrapper's own parts alone are."""
    at.ledger.take(at.path)
    for child in at.children():
        path = child.text()
        if side.prefix and path == side.prefix:
            side.trainable = False
            draft.carry(child, f"models.{side.role}: frozen")
            continue
        path = path.removeprefix(f"{side.prefix}.") if side.prefix else path
        if path.lstrip("+") in side.added or not is_path(path):
            draft.leave(child, f"the frozen module {path}", "it is no path within the model")
        else:
            side.frozen.append(path)
            draft.carry(child, "the action freeze")
            draft.differs(child, "a frozen module", "its running statistics stand still here, too")


def _optimisation(stage: Stage, before: Stage | None, draft: Draft) -> None:
    at = stage.at
    optimizer = at.get("optimizer")
    if optimizer is not None:
        stage.optimizer = read_optimizer(optimizer, draft)
        for theirs, ours in (("max_grad_norm", "grad_clip"), ("grad_accum_step", "accumulate")):
            found = optimizer.get(theirs) or at.get(theirs)
            if found is not None:
                value = found.count() if ours == "accumulate" else found.number()
                if value <= 0:
                    raise found.wrong("a number above 0", value)
                stage.train[ours] = value
                draft.carry(found, f"train.{ours}")
    elif before is not None:
        stage.optimizer = before.optimizer
        draft.differs(at, "the optimiser", "it starts anew here, where torchdistill keeps it")
    schedule = at.get("scheduler")
    if schedule is not None:
        stage.scheduler = read_scheduler(schedule, draft)
