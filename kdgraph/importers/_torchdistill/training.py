"""Optimiser, schedule and length of a stage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kdgraph.importers._draft import Draft
from kdgraph.importers._tagged import At
from kdgraph.importers._values import Opaque

# of torch.optim.lr_scheduler, by names that need no function
_SCHEDULERS = {
    "MultiStepLR", "StepLR", "ExponentialLR", "CosineAnnealingLR", "CosineAnnealingWarmRestarts",
    "ReduceLROnPlateau", "OneCycleLR", "LinearLR", "PolynomialLR", "ConstantLR", "CyclicLR",
}  # fmt: skip
_OPTIMIZERS = {
    "SGD", "Adam", "AdamW", "Adamax", "Adadelta", "Adagrad", "ASGD", "NAdam", "RAdam", "RMSprop",
    "Rprop", "Adafactor", "Muon",
}  # fmt: skip


def read_optimizer(at: At, draft: Draft) -> dict[str, Any] | None:
    """``optimizer`` as a spec has it; None where it is code."""
    key = at.need("key", "type").text()
    args = _arguments(at, draft)
    spares = key == "optimizer_no_decay"
    if spares:  # of torchdistill's example for text
        key = str(args.pop("optimizer_key", args.pop("optimizer_type", "AdamW")))
    if key not in _OPTIMIZERS:
        why = "it is none of torch.optim; name one by hand"
        draft.leave(at, f"the optimiser {key}", why, "train")
        return None
    found = {"use": key, **args}
    groups = [_group(g, draft) for g in _list(at.get("module_wise_configs", "module_wise_params"))]
    if spares:
        groups.append({"params": ["*bias", "*LayerNorm.weight"], "weight_decay": 0.0})
    if groups:
        found["groups"] = groups
    at.ledger.take(at.path)
    if (flag := at.get("filters_params")) is not None:
        draft.carry(flag, "nothing: what is frozen is never in the optimiser", whole=True)
    draft.carry(at, f"the optimiser {key}")
    return found


def _list(at: At | None) -> list[At]:
    return list(at.children()) if at is not None else []


def _group(at: At, draft: Draft) -> dict[str, Any]:
    """One of ``module_wise_configs``; there what no entry names is not trained at all."""
    teacher = at.get("is_teacher")
    role = "teacher" if teacher is not None and teacher.flag() else "student"
    module = at.need("module").text()
    params = f"{role}.*" if module == "." else f"{role}.{module}.*"
    args = _arguments(at, draft)
    draft.differs(at, "an entry for a module", "what no entry names is trained here, too")
    at.ledger.take(at.path)
    return {"params": params, **args}


def _arguments(at: At, draft: Draft) -> dict[str, Any]:
    """Keyword arguments that are data."""
    kwargs = at.get("kwargs", "params")
    found = {}
    for name, child in kwargs.items() if kwargs is not None else []:
        value = child.read()
        if isinstance(value, Opaque):
            draft.leave(child, f"the argument {name}", f"only running {value} would tell it")
        elif name in ("use", "groups", "interval"):
            draft.leave(child, f"the argument {name}", "a spec has another meaning for this name")
        else:
            found[name] = value
    if kwargs is not None:
        kwargs.ledger.take(kwargs.path)
    return found


def read_scheduler(at: At, draft: Draft) -> dict[str, Any] | None:
    """``scheduler`` as a spec has it; None where there is none like it."""
    key = at.need("key", "type").text()
    step_at = at.get("scheduling_step")
    every = step_at.number() if step_at is not None else 0
    if every > 1:
        draft.leave(at, f"the schedule {key}", "it moves after every so many batches", "train")
        return None
    interval = {"interval": "step"} if every == 1 else {}
    if key == "poly_lr_scheduler":
        found = _poly(at)
    elif key == "get_linear_schedule_with_warmup":
        found = _linear(at)
    elif key in _SCHEDULERS:
        found = {"use": key, **_arguments(at, draft)}
    else:
        found = {}
    if not found:
        draft.leave(at, f"the schedule {key}", "a spec names one of torch, without code", "train")
        return None
    at.ledger.take(at.path)
    draft.carry(at, f"the schedule {found['use']}")
    return found | interval


def _poly(at: At) -> dict[str, Any]:
    """``(1 - t / T)**power`` over the whole run."""
    kwargs = at.get("kwargs", "params")
    power = kwargs.get("power") if kwargs is not None else None
    found = {"use": "PolynomialLR", "total_iters": "auto"}
    if kwargs is not None:
        kwargs.read()
    return {**found, "power": power.number() if power is not None else 0.9}


def _linear(at: At) -> dict[str, Any]:
    """Down to 0 over the whole run; with a warm-up there is none like it."""
    kwargs = at.get("kwargs", "params")
    steps = kwargs.get("num_warmup_steps") if kwargs is not None else None
    if steps is not None and steps.read() != 0:
        return {}
    if kwargs is not None:
        kwargs.read()
    return {"use": "LinearLR", "start_factor": 1.0, "end_factor": 0.0, "total_iters": "auto"}


@dataclass
class Loader:
    """What a loader of training rows says: rows of a batch, and processes that load them."""

    batch_size: int | None = None
    workers: int | None = None


def read_loader(at: At, draft: Draft) -> Loader:
    """``train_data_loader``; what else is in it is accounted for."""
    found = Loader()
    for part in (at, at.get("kwargs", "params")):
        if part is None:
            continue
        part.ledger.take(part.path)
        if (rows := part.get("batch_size")) is not None:
            found.batch_size = rows.count()
            draft.carry(rows, "data.batch_size")
        if (workers := part.get("num_workers")) is not None:
            found.workers = int(workers.number())
            draft.carry(workers, "data.workers")
        if (last := part.get("drop_last")) is not None and not last.flag():
            draft.differs(
                last, "drop_last", "a last, incomplete batch of training is left out here"
            )
        elif last is not None:
            draft.carry(last, "nothing: it is so here")
        if (order := part.get("random_sample")) is not None and not order.flag():
            draft.differs(order, "the order of rows", "training rows are shuffled here")
        elif order is not None:
            draft.carry(order, "nothing: it is so here")
        for name in ("pin_memory", "requires_supp"):
            if (plain := part.get(name)) is not None:
                draft.carry(plain, "nothing: it changes no number", whole=True)
        for name, why in _LOADER.items():
            if (other := part.get(name)) is not None:
                draft.leave(other, name.replace("_", " "), why)
    _sampler(at, draft)
    return found


def _sampler(at: At, draft: Draft) -> None:
    sampler = at.get("sampler", "batch_sampler")
    if sampler is None:
        return
    chosen = sampler.get("class_or_func", "key", "type")
    name = str(chosen.read()) if chosen is not None else ""
    if name.endswith("RandomSampler") and sampler.path[-1] == "sampler":
        draft.carry(sampler, "nothing: training rows are shuffled", whole=True)
    else:
        draft.leave(sampler, "a sampler", "training rows are shuffled here, each seen once")


_LOADER = {
    "cache_output": "`kdgraph book build` keeps what teachers say",
    "collate_fn": "batches are put together by the data set here",
    "dataset_wrapper": "data sets that give more than rows are nothing a spec has",
}
