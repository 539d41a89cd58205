"""Builds a Triton kernel for a GPU that need not be there, and reads what came out.

ptxas and cuobjdump are part of Triton's wheel; nothing here is timed or run. What a kernel spills,
how wide it loads and which matrix units it uses can all be read from the machine code:

    found = build(_rows, {"X": "*bf16", "N": "i32"}, {"BLOCK": 4096}, num_warps=8, divisible=["X"])
    assert not found.faults()
    assert found.loads_128 == found.loads
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

TARGETS = (80, 90, 100)
SHARED = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}  # bytes that one program may take
_CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
_WAITS = 16  # a loop of fewer instructions waits for a barrier


@dataclass(frozen=True)
class Build:
    """What ptxas made of a kernel. Counts are of instructions in the machine code.

    Attributes:
        cc: the compute capability times ten.
        registers: of each thread.
        stack: bytes of each thread; not 0 where registers spill.
        spills: loads and stores of the stack.
        shared: bytes of each program.
        loads: from global memory, asynchronous copies among them.
        loads_128: those of 128 bits or more.
        stores: to global memory.
        stores_128: those of 128 bits or more.
        wgmma: products of Hopper's matrix units.
        tcgen05: products of Blackwell's.
        mma: products of Ampere's, which every later GPU can do too.
        tma: copies of whole tiles.
        ex2: base-2 exponentials.
        instructions: all of them.
        loops: of each innermost loop, in the order of the code. Per element, that is
            ``loops[i] / (elements of a step / (32 * num_warps))``.
    """

    cc: int
    registers: int
    stack: int
    spills: int
    shared: int
    loads: int
    loads_128: int
    stores: int
    stores_128: int
    wgmma: int
    tcgen05: int
    mma: int
    tma: int
    ex2: int
    instructions: int
    loops: tuple[int, ...]
    sass: str = field(repr=False)

    def faults(self) -> list[str]:
        """Why no kernel may be shipped that was built so; empty where it may."""
        found = []
        if self.stack or self.spills:
            found.append(f"{self.stack} bytes of stack, {self.spills} loads and stores of it")
        if self.shared > SHARED[self.cc]:
            found.append(f"{self.shared} bytes of shared memory, of {SHARED[self.cc]}")
        return found


def build(
    fn: Any,
    signature: Mapping[str, str],
    constants: Mapping[str, Any],
    *,
    num_warps: int,
    num_stages: int = 3,
    cc: int = 90,
    divisible: Collection[str] = (),
    maxnreg: int | None = None,
) -> Build:
    """Compiles a ``@triton.jit`` function ahead of time.

    Args:
        fn: the function.
        signature: the type of each argument that ``constants`` has not: ``"*bf16"``, ``"i32"``,
            ``"fp32"``, ``"tensordesc<bf16[128,64]>"``.
        constants: the ``tl.constexpr`` arguments, and what a launch specialises: an integer that
            is 1 (a stride, mostly), a pointer that is None.
        num_warps: as at the launch.
        num_stages: as at the launch.
        cc: 80, 90 or 100.
        divisible: the arguments that are multiples of 16 at the launch: pointers from PyTorch
            are, unless they point into a tensor.
        maxnreg: as at the launch.
    """
    names = list(fn.arg_names)
    if odd := [n for n in (*signature, *constants, *divisible) if n not in names]:
        raise TypeError(f"{fn.__name__} has no argument {odd}")
    source = ASTSource(
        fn=fn,
        signature={n: "constexpr" if n in constants else signature[n] for n in names},
        constexprs={(names.index(n),): value for n, value in constants.items()},
        attrs={(names.index(n),): [["tt.divisibility", 16]] for n in divisible},
    )
    options = {"num_warps": num_warps, "num_stages": num_stages, "maxnreg": maxnreg}
    kernel = triton.compile(source, target=GPUTarget("cuda", cc, 32), options=options)
    return _read(kernel.asm["cubin"], cc, kernel.metadata.shared)


def _read(cubin: bytes, cc: int, shared: int) -> Build:
    handle, path = tempfile.mkstemp(suffix=".cubin")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(cubin)
        usage, sass = (_cuobjdump(what, path) for what in ("--dump-resource-usage", "--dump-sass"))
    finally:
        Path(path).unlink()
    used = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    assert used, usage
    code = re.findall(r"/\*([0-9a-f]{4,})\*/\s+(?:@!?\w+\s+)?([A-Z][^;]*);", sass)

    def count(pattern: str) -> int:
        return sum(re.match(pattern, text) is not None for _, text in code)

    return Build(
        cc=cc,
        registers=int(used[1]),
        stack=int(used[2]),
        spills=count(r"LDL|STL"),
        shared=shared,
        loads=count(r"LDG"),
        loads_128=count(r"LDG[\w.]*\.(128|256)\b"),
        stores=count(r"STG"),
        stores_128=count(r"STG[\w.]*\.(128|256)\b"),
        wgmma=count(r"[HIQ]GMMA"),
        tcgen05=count(r"UTC[A-Z]*MMA"),
        mma=count(r"[HIQ]MMA"),
        tma=count(r"UTMA(LDG|STG|REDG)"),
        ex2=count(r"MUFU\.EX2"),
        instructions=len(code),
        loops=_loops([(int(at, 16), text) for at, text in code]),
        sass=sass,
    )


def _cuobjdump(what: str, path: str) -> str:
    return subprocess.run(
        [_CUOBJDUMP, what, path], capture_output=True, text=True, check=True
    ).stdout


def _loops(code: list[tuple[int, str]]) -> tuple[int, ...]:
    """Instructions from the target of a jump backwards to the jump."""
    spans: dict[int, int] = {}
    for at, text in code:
        jump = re.match(r"BRA\b.*\b0x([0-9a-f]+)", text)
        if jump and int(jump[1], 16) < at:  # a jump to itself fills the end
            spans[int(jump[1], 16)] = at
    sizes = {
        (start, end): sum(start <= at <= end for at, _ in code) for start, end in spans.items()
    }
    long = sorted(span for span, size in sizes.items() if size >= _WAITS)
    inner = [
        (start, end)
        for start, end in long
        if not any((start, end) != (a, b) and start <= a and b <= end for a, b in long)
    ]
    return tuple(sizes[span] for span in inner)
