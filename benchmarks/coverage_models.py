"""Captures many models with two taps each and compares the values with forward hooks.

    python benchmarks/coverage_models.py                  writes docs/capture.md
    python benchmarks/coverage_models.py --fast           a dozen models, the ones CI runs
    python benchmarks/coverage_models.py --only 'hf/*'    those of that name

The models: the first of every timm family, every classification and segmentation model of
torchvision and the backbones of its detection models, and 25 transformers architectures from
small random configs. All in train mode, with random weights, two images or sequences each, and
the taps at about one and two thirds of depth. Each model has a process of its own.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import multiprocessing as mp
import random
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

Example = tuple[nn.Module, dict[str, Tensor]]
TIMEOUT = 300  # seconds for one model
SIDES = (96, 128, 224, 299)  # image sizes, tried in turn until the model takes one
FAST = {  # what CI runs, with the rung expected of each
    "timm/convnext": "fx",
    "timm/inception_next": "fx",
    "timm/pvt_v2": "fx",
    "timm/resnetv2": "fx",
    "timm/tiny_vit": "fx",
    "torchvision/squeezenet1_1": "fx",
    "torchvision/googlenet": "fx",
    "torchvision/segmentation/lraspp*": "fx",
    "torchvision/detection/fasterrcnn_mobilenet_v3_large_320_fpn": "fx",
    "hf/CLIP vision": "fx",
    "hf/ViT": "export",
    "hf/Wav2Vec2": "ports",
}
HF = yaml.safe_load(Path(__file__).with_name("coverage_hf.yaml").read_text())


def zoo() -> dict[str, Callable[[], Iterator[Example]]]:
    """Name to a function that builds the model with inputs, one after the other to try."""
    import timm
    import torchvision.models as tv

    found: dict[str, Callable[[], Iterator[Example]]] = {}
    for family in timm.list_modules():
        names = timm.list_models(module=family)
        if names:
            found[f"timm/{family}"] = lambda name=names[0]: _timm(name)
    kinds = {"": tv, "segmentation/": tv.segmentation, "detection/": tv.detection}
    for kind, module in kinds.items():
        for name in tv.list_models(module=module):
            found[f"torchvision/{kind}{name}"] = lambda name=name, kind=kind: _torchvision(
                name, kind
            )
    for name in HF:
        found[f"hf/{name}"] = lambda name=name: _hf(name)
    return found


def _timm(name: str) -> Iterator[Example]:
    import timm

    for side in SIDES[:2]:  # models with a position for each patch can be built for small images
        with suppress(Exception):
            model = timm.create_model(name, img_size=side)
            yield (
                model,
                {
                    _first_argument(model): torch.randn(
                        2, model.default_cfg["input_size"][0], side, side
                    )
                },
            )
    model = timm.create_model(name)
    channels, *own = model.default_cfg["input_size"]
    sides = [side for side in SIDES if side <= own[-1]]
    for size in [*([side, side] for side in sides), own]:
        yield model, {_first_argument(model): torch.randn(2, channels, *size)}


def _torchvision(name: str, kind: str) -> Iterator[Example]:
    import torchvision.models as tv

    settings = {} if kind == "" else {"weights_backbone": None}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about how the weights are initialised
        model: Any = tv.get_model(name, weights=None, **settings)
    model = model.backbone if kind == "detection/" else model
    for side in SIDES:
        yield model, {_first_argument(model): torch.randn(2, 3, side, side)}


def _first_argument(model: nn.Module) -> str:
    import inspect

    return next(iter(inspect.signature(model.forward).parameters))


def _hf(name: str) -> Iterator[Example]:
    import transformers

    entry = HF[name]
    model_class = getattr(transformers, entry["model"])
    model = model_class(model_class.config_class(**entry["config"]))
    tokens, mask = torch.randint(3, 90, (2, 12)), torch.ones(2, 12, dtype=torch.long)
    mask[0, 9:] = 0
    yield (
        model,
        {
            "text": {"input_ids": tokens, "attention_mask": mask},
            "seq2seq": {
                "input_ids": tokens,
                "attention_mask": mask,
                "decoder_input_ids": tokens[:, :7],
            },
            "image": {"pixel_values": torch.randn(2, 3, 64, 64)},
            "mel": {"input_features": torch.randn(2, 8, 64), "decoder_input_ids": tokens[:, :7]},
            "wave": {"input_values": torch.randn(2, 4000)},
        }[entry["fed"]],
    )


def two_taps(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, str]:
    """A block at about one and one at two thirds of those that run (blocks are numbered)."""
    from kdgraph.capture import list_taps

    ran = [t for t in list_taps(model, inputs) if t.taps and t.path and t.dtypes[0] == "float32"]
    blocks = [t for t in ran if t.path.rsplit(".", 1)[-1].isdigit() and len(t.shapes[0]) > 1]
    depth = min((t.path.count(".") for t in blocks), default=0)
    chosen = [t for t in blocks if t.path.count(".") <= depth + 1]
    chosen = chosen if len(chosen) > 2 else ran
    return {
        "one": chosen[len(chosen) // 3].taps[0],
        "two": chosen[min(2 * len(chosen) // 3, len(chosen) - 1)].taps[0],
    }


def hooked(model: nn.Module, inputs: dict[str, Tensor], taps: dict[str, str]) -> dict[str, Tensor]:
    """The truth: forward hooks that copy the value at the moment the module returns."""
    from kdgraph.capture import parse_tap

    found: dict[str, Tensor] = {}

    def hook(name: str) -> Callable[..., None]:
        def keep(module: nn.Module, args: Any, value: Any) -> None:
            for step in parse_tap(taps[name]).reach:
                value = (
                    value[step] if isinstance(value, (tuple, list, dict)) else getattr(value, step)
                )
            found.setdefault(name, value.clone())

        return keep

    handles = [
        model.get_submodule(parse_tap(text).path).register_forward_hook(hook(name))
        for name, text in taps.items()
    ]
    model(**inputs)
    for handle in handles:
        handle.remove()
    return found


def check(name: str, rungs: tuple[str, ...]) -> dict[str, Any]:
    """Captures one model and compares it; a row of the table."""
    from kdgraph.capture import capture
    from kdgraph.errors import CaptureError

    torch.manual_seed(0)
    failure: Exception = RuntimeError("no example")
    for model, inputs in zoo()[name]():
        model.train()
        try:
            taps = two_taps(model, inputs)
            _seed()
            with torch.no_grad():
                expected = hooked(model, {k: v.clone() for k, v in inputs.items()}, taps)
            captured = capture(model, inputs, taps, rungs=rungs)
        except CaptureError as error:
            failure = error
            if error.diagnostics[0].code == "KD405":
                continue  # not at this image size
            break
        except Exception as error:
            failure = error
            continue
        _seed()
        with torch.no_grad():
            got = captured.graph_module()(*inputs.values())
        error = max(
            float((got[k] - v).abs().max() / v.abs().max().clamp(min=1e-12))
            for k, v in expected.items()
        )
        return {
            "rung": captured.rung, "nodes": captured.nodes, "seconds": captured.seconds,
            "error": error, "equal": error <= 1e-5, "taps": list(taps.values()),
            "declined": list(captured.declined), "mode_dependent": captured.mode_dependent,
        }  # fmt: skip
    return {
        "rung": "none",
        "equal": False,
        "declined": [["all", f"{type(failure).__name__}: {str(failure)[:300]}"]],
    }


def _seed() -> None:
    random.seed(0)
    torch.manual_seed(0)
    import numpy as np

    np.random.seed(0)


def _child(name: str, rungs: tuple[str, ...], pipe: Any) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    try:
        pipe.send(check(name, rungs))
    except Exception as error:
        pipe.send(
            {
                "rung": "none",
                "equal": False,
                "declined": [["all", f"{type(error).__name__}: {error}"]],
            }
        )


def row(name: str, rungs: tuple[str, ...]) -> dict[str, Any]:
    """Checks one model in a process of its own, which takes its memory with it."""
    ours, theirs = mp.Pipe(duplex=False)
    process = mp.get_context("fork").Process(target=_child, args=(name, rungs, theirs))
    start = time.perf_counter()
    process.start()
    theirs.close()
    try:
        told = ours.poll(TIMEOUT)
        found = ours.recv() if told else {}
    except EOFError:  # the process is gone: out of memory
        found = {}
    if not found:
        process.kill()
        found = {"rung": "none", "equal": False, "declined": [["all", "no answer in time"]]}
    process.join()
    return {"model": name, "total_seconds": time.perf_counter() - start, **found}


def page(rows: list[dict[str, Any]]) -> str:
    """The page ``docs/capture.md``."""
    import timm
    import torchvision
    import transformers

    good = [r for r in rows if r["equal"]]
    rungs = Counter(r["rung"] for r in good)
    lines = [
        "# Models that can be captured",
        "",
        "Written by `make coverage-models`. Two taps in each model, at about one and two thirds of"
        " its depth, in train mode with random weights; the tapped values are compared with those"
        " that forward hooks see. `fx` opens the modules that have a tap inside, `export` turns the"
        " whole model into operators, `ports` leaves it whole. Nodes are those that compute.",
        "",
        f"torch {torch.__version__}, timm {timm.__version__}, torchvision"
        f" {torchvision.__version__}, transformers {transformers.__version__}.",
        "",
        "| models | equal to hooks | fx | export | ports | seconds, median |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for kind in ("timm", "torchvision", "hf", ""):
        part = [r for r in rows if r["model"].startswith(kind)]
        if not part:
            continue
        by = Counter(r["rung"] for r in part if r["equal"])
        seconds = sorted(r["seconds"] for r in part if "seconds" in r)
        middle = f"{seconds[len(seconds) // 2]:.2f}" if seconds else ""
        equal = sum(r["equal"] for r in part)
        lines.append(
            f"| {kind or 'all'} | {equal} of {len(part)} | {by['fx']} | {by['export']}"
            f" | {by['ports']} | {middle} |"
        )
    lines += [
        "",
        "| model | rung | nodes | seconds | why not a rung before |",
        "| --- | --- | --- | --- | --- |",
    ]
    for r in rows:
        why = "; ".join(f"{rung}: {reason}" for rung, reason in r["declined"])
        why = why.replace("|", "\\|").replace("\n", " ")[:240]
        rung = r["rung"] if r["equal"] else f"**{r['rung']}, differs**"
        lines.append(
            f"| {r['model']} | {rung} | {r.get('nodes', '')} | {r.get('seconds', 0):.2f} | {why} |"
        )
    assert sum(rungs.values()) == len(good)
    return "\n".join(lines) + "\n"


def main() -> int:
    """Runs the models; the exit status is 1 when fewer than 95 percent are captured."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--fast", action="store_true", help="a dozen models")
    parser.add_argument("--only", metavar="PATTERN", help="models whose name matches")
    parser.add_argument("--rungs", default="fx,export,ports", help="the rungs to try")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time")
    parser.add_argument(
        "--resume", type=Path, help="a file of rows; models that have one are skipped"
    )
    parser.add_argument("--output", type=Path, help="where to write the page")
    options = parser.parse_args()

    import timm  # noqa: F401 - imported once, before the processes fork
    import torchvision  # noqa: F401 - as timm
    import transformers

    transformers.logging.set_verbosity_error()
    wanted = FAST if options.fast else (options.only or "*",)
    names = [n for n in zoo() if any(fnmatch.fnmatch(n, pattern) for pattern in wanted)]
    done: dict[str, dict[str, Any]] = {}
    if options.resume and options.resume.exists():
        done = {r["model"]: r for r in map(json.loads, options.resume.read_text().splitlines())}
    rungs = tuple(options.rungs.split(","))
    with ThreadPoolExecutor(options.jobs) as pool:
        for found in pool.map(lambda n: row(n, rungs), [n for n in names if n not in done]):
            done[found["model"]] = found
            why = "; ".join(f"{a}: {b}" for a, b in found["declined"])
            print(
                f"{found['model']:55} {found['rung']:7} {'equal' if found['equal'] else 'DIFFERS'}"
                f" {found.get('seconds', 0):6.2f} s {found['total_seconds']:6.1f} s  {why[:200]}",
                flush=True,
            )
            if options.resume:
                with options.resume.open("a") as file:
                    file.write(json.dumps(found) + "\n")
    rows = [done[n] for n in names]
    whole = not options.fast and not options.only and options.rungs == "fx,export,ports"
    output = options.output or (Path("docs/capture.md") if whole else None)
    if output:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(page(rows))
    equal = sum(r["equal"] for r in rows)
    print(f"{equal} of {len(rows)} captured with the values of the hooks")
    return 0 if equal >= 0.95 * len(rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
