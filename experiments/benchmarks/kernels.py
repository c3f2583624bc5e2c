"""Speed of the package's kernels against plain torch and against what the machine allows, in one run.

    python experiments/benchmarks/kernels.py

Contestants take turns as in flows.py. The bound of a kernel is the larger of two times, both measured
beside it: that of copying a buffer of the bytes that it must touch (every link, spinor and force once), and
its flops over the rate of a large product of matrices. Writes its rows of results.json, kernels.png and
the second table in README.md. A folder with an older checkout as argument adds the trajectory of that
version.
"""

import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import plain_kernels as plain
import torch
from flows import HERE, PEER_COPY, Bench, number, spread, write_rows, write_table
from matplotlib.figure import Figure
from memory import AllocatedBytes
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from trajectory import make

from lattice_lightning.actions import StaggeredFermion, SumAction, WilsonGauge
from lattice_lightning.fermions import EVEN, ODD, StaggeredOperator
from lattice_lightning.gauge import stout
from lattice_lightning.groups import SU2, SUN, U1, Group, generators
from lattice_lightning.lattice import Lattice
from lattice_lightning.models import Cask
from lattice_lightning.pipeline.device import keep_memory
from lattice_lightning.samplers import HMC, Level

COMMAND = "python experiments/benchmarks/kernels.py"
GROUPS: tuple[Group, ...] = (SU2(), SUN(3))
#: extent and chains
SIZES = ((4, 64), (8, 8))
#: link updates per second of other packages on one core where torch copied PEER_COPY GB/s
PEERS = {
    ("SU(3)", "32"): 0.44e6,
    ("SU(3)", "64"): 0.28e6,
    ("SU(2)", "32"): 0.90e6,
    ("SU(2)", "64"): 0.73e6,
}
PEER_U1 = 116e6
#: kernels whose first call is timed
FIRST = ("hop SU(2)", "hop SU(3)", "force SU(3)", "drift SU(3)")
Run = Callable[[], Any]


def real_bytes(group: Group) -> int:
    """Bytes of a link in double precision, as few as its layout allows."""
    return 32 if group.name == "SU(2)" else 16 * group.n_colors**2


class KernelBench(Bench):
    """A bench with the two bounds."""

    command = COMMAND

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self.matrix = torch.ones(512, 512, dtype=torch.float64, device=device)
        self.product = torch.empty_like(self.matrix)

    def bound(self, n_bytes: float, flops: float) -> tuple[float, float]:
        """Seconds of the copy, of the arithmetic."""
        n = max(int(n_bytes) // 8, 1)
        source = torch.ones(n, device=self.device, dtype=torch.float64)
        sink = torch.empty_like(source)
        repeats = max(1, 2**24 // n)
        copy = statistics.median(
            self.seconds(lambda: [sink.copy_(source) for _ in range(repeats)]) / repeats for _ in range(3)
        )
        rate = 2 * 512**3 / statistics.median(
            self.seconds(lambda: torch.mm(self.matrix, self.matrix, out=self.product)) for _ in range(3)
        )
        return copy, flops / rate

    def kernel(
        self, row: str, parameters: dict[str, Any], ours: Run, other: Run | None, n_bytes: float,
        flops: float, repeats: int = 7, calls: int = 1, passes: int = 1,
    ) -> None:
        """Rows of one kernel: against plain torch, and against its bound.

        Bytes and flops are those of one of ``passes`` that a call makes over the same memory.
        """
        start = perf_counter()
        ours()
        first = perf_counter() - start
        if other is not None:
            other()
        times, speedups, of_bound, bounds = [], [], [], []
        for _ in range(repeats):
            time = self.seconds(lambda: [ours() for _ in range(calls)]) / calls
            times.append(time)
            if other is not None:
                speedups.append(self.seconds(other) / time)
            bounds.append(tuple(passes * bound for bound in self.bound(n_bytes, flops)))
            of_bound.append(time / max(bounds[-1]))
        copy, arithmetic = (statistics.median(b[k] for b in bounds) for k in (0, 1))
        measured = {
            "rate": 1e3 * statistics.median(times), "unit": "ms", "first_call_seconds": first,
            "bytes": passes * n_bytes, "flops": passes * flops,
            "copy_ms": 1e3 * copy, "arithmetic_ms": 1e3 * arithmetic,
        }
        if speedups:
            self.add(row, parameters, speedups, "time of plain torch", measured)
        kind = "copy" if copy > arithmetic else "flops"
        self.add(row, parameters, of_bound, f"bound, by {kind} (times as long)", measured)


# -- kernels -------------------------------------------------------------------------------------------


def close(a: Tensor, b: Tensor, tolerance: float = 1e-9) -> None:
    """Both formulations compute the same."""
    difference = float((a - b).abs().max())
    assert difference < tolerance, difference


def dirac(bench: KernelBench) -> None:
    """Hop and solver."""
    for group in GROUPS:
        for extent, chains in SIZES:
            dirac_of(bench, group, extent, chains)


def dirac_of(bench: KernelBench, group: Group, extent: int, chains: int) -> None:
    """Of one group and lattice; the solver on 4^4."""
    n = group.n_colors
    lattice = Lattice((extent,) * 4)
    operator = StaggeredOperator(lattice, group).to(bench.device)
    links = group.hot(lattice, chains, bench.rng())
    matrices = operator.hop_matrices(group.pack(links))
    even, odd = (operator.gaussian(chains, bench.rng(s)) for s in (2, 3))
    psi = operator.unpack_field(even, odd)
    eta = plain.staggered_signs(lattice.shape).to(bench.device)
    parameters = {"group": group.name, "L": extent, "chains": chains, "precision": "64"}
    ours = operator.unpack_field(
        operator.hop(matrices, odd, EVEN), operator.hop(matrices, even, ODD)
    )
    close(ours, plain.hop(links, psi, eta))
    sites = lattice.volume * chains
    # into one parity, as solvers call it: every link once, half of the spinors in and half out
    n_bytes = sites * (4 * real_bytes(group) + 16 * n)
    flops = sites * 4 * 8 * n**2
    bench.kernel(
        "staggered hop", parameters,
        lambda: (operator.hop(matrices, odd, EVEN), operator.hop(matrices, even, ODD)),
        lambda: plain.hop(links, psi, eta), n_bytes, flops, calls=5, passes=2,
    )
    if extent != 4:
        return
    solution = operator.solve(matrices, even, [0.3], EVEN, 1e-8, 1000)
    source = operator.unpack_field(even, torch.zeros_like(odd))
    x, _ = plain.solve(links, source, eta, 0.3, 1e-8)
    close(operator.unpack_field(solution.x[0], torch.zeros_like(odd)), x, 1e-5)
    # an iteration: two hops, and x, r and p read and written on half of the sites; half of it for a pass
    work = int(solution.iterations.max())
    bench.kernel(
        "conjugate gradients", {**parameters, "m": 0.3, "iterations": work},
        lambda: operator.solve(matrices, even, [0.3], EVEN, 1e-8, 1000),
        lambda: plain.solve(links, source, eta, 0.3, 1e-8),
        n_bytes + sites * 0.75 * 16 * n, flops + sites * 6 * n, repeats=3, passes=2 * work,
    )


def gauge(bench: KernelBench) -> None:
    """Force and stout smearing."""
    for group in GROUPS:
        for extent, chains in SIZES:
            gauge_of(bench, group, extent, chains)


def gauge_of(bench: KernelBench, group: Group, extent: int, chains: int) -> None:
    """Of one group and lattice; smearing on 4^4."""
    n = group.n_colors
    basis = generators(n).to(bench.device)
    lattice = Lattice((extent,) * 4)
    links = group.hot(lattice, chains, bench.rng())
    motion, action = group.to_motion(links), WilsonGauge(lattice, group, 2.5)
    parameters = {"group": group.name, "L": extent, "chains": chains, "precision": "64"}
    close(
        group.unpack_algebra(action.motion_force(motion, {})), plain.wilson_force(links, 2.5, basis)
    )
    n_links = 4 * lattice.volume * chains
    flops = n_links * 13 * (28 if n == 2 else 8 * n**3)
    bench.kernel(
        "gauge force", parameters, lambda: action.motion_force(motion, {}),
        lambda: plain.wilson_force(links, 2.5, basis),
        n_links * (real_bytes(group) + 8 * group.n_generators), flops, repeats=5,
    )
    if extent != 4:
        return
    packed = group.pack(links)
    with torch.no_grad():
        close(group.unpack(stout(group, lattice, packed, 0.1)), plain.stout(links, 0.1))
        bench.kernel(
            "stout step", parameters, lambda: stout(group, lattice, packed, 0.1),
            lambda: plain.stout(links, 0.1), 2 * n_links * real_bytes(group), 1.3 * flops, repeats=3,
        )


def attention(bench: KernelBench) -> None:
    """One CASK block of SU(2), forward and with the gradient by the links."""
    lattice, group, chains = Lattice((4,) * 4), SU2(), 16
    network = Cask(lattice, group, n_blocks=1, init_scale=0.05).to(bench.device)
    rho = network.layers[0].rho.detach().flatten()  # type: ignore[union-attr, operator]
    links = group.hot(lattice, chains, bench.rng())
    packed = group.pack(links)
    close(network.transform(links).detach(), plain.cask_block(links, rho))
    n_links = 4 * lattice.volume * chains
    # 2 * 6 transports of K, V and U for every length, 2 * 12 products of staples, the rest is little
    flops = n_links * 28 * (2 * 3 * 6 * plain.S_MAX + 20)
    parameters = {"group": "SU(2)", "L": 4, "chains": chains, "precision": "64"}
    with torch.no_grad():
        bench.kernel(
            "CASK block, forward", parameters, lambda: network(packed),
            lambda: plain.cask_block(links, rho), 2 * 32 * n_links, flops, repeats=3,
        )

    def ours() -> Tensor:
        u = packed.detach().requires_grad_()
        return torch.autograd.grad(group.re_trace(network(u)).sum(), u)[0]

    def other() -> Tensor:
        u = links.detach().requires_grad_()
        mapped = plain.cask_block(u, rho)
        return torch.autograd.grad(mapped.diagonal(dim1=-2, dim2=-1).sum().real, u)[0]

    bench.kernel(
        "CASK block, forward and backward", parameters, ours, other, 4 * 32 * n_links, 3 * flops, repeats=3
    )


# -- molecular dynamics --------------------------------------------------------------------------------


def pure_gauge(bench: KernelBench) -> None:
    """HMC, leapfrog, whole trajectories: momenta, both actions, accept step included."""
    cases: list[tuple[Group, int, int, int, float]] = [
        (g, extent, 4, 8, beta) for g, beta in ((SUN(3), 6.0), (SU2(), 2.5)) for extent in (4, 8)
    ]
    for group, extent, dimensions, chains, beta in [*cases, (U1(), 16, 2, 512, 2.0)]:
        for precision in ("32", "64"):
            lattice = Lattice((extent,) * dimensions)
            action, levels = WilsonGauge(lattice, group, beta), [Level(10, "leapfrog")]
            kernel = HMC(action, 1.0, levels, precision=precision)
            rng = bench.rng()
            holder = [kernel.init(group.hot(lattice, chains, rng), rng)]

            def step(kernel: HMC = kernel, holder: list[Any] = holder, rng: torch.Generator = rng) -> None:
                holder[0] = kernel.step(rng, holder[0])[0]

            peer = PEERS.get((group.name, precision), PEER_U1)
            start = perf_counter()
            step()
            first = perf_counter() - start
            rates, copies = [], []
            for _ in range(5):
                rates.append(lattice.ndim * lattice.volume * chains * 10 / bench.seconds(step))
                copies.append(bench.copy())
            measured = {
                "rate": statistics.median(rates), "unit": "link updates/s", "first_call_seconds": first,
                "copy_GB_per_s": statistics.median(copies),
            }
            parameters = {
                "group": group.name, "L": extent, "d": dimensions, "chains": chains, "precision": precision,
                "scheme": "leapfrog", "steps": 10,
            }
            where = "on 4^4" if dimensions == 4 else "on 16^2"
            other = f"another package {where}, {peer:g} a second"
            ratios = [r / peer for r in rates]
            bench.add("pure-gauge HMC", parameters, ratios, f"{other}, not scaled", measured)
            scaled = [r / peer * PEER_COPY / c for r, c in zip(rates, copies, strict=True)]
            bench.add("pure-gauge HMC", parameters, scaled, f"{other}, scaled by the copy", measured)


def chains(bench: KernelBench) -> None:
    """Trajectories of HMC with a staggered fermion against the number of chains."""
    rates: dict[int, list[float]] = {}
    for n_chains in (1, 2, 4, 8, 16, 32, 64, 128):
        rates[n_chains] = [n_chains / s for s in fermion_seconds(bench, 4, n_chains)[0]]
    for n_chains, values in rates.items():
        measured = {"rate": statistics.median(values), "unit": "chain-trajectories/s"}
        bench.add(
            "HMC with fermions: chains", {"group": "SU(2)", "L": 4, "m": 0.3, "chains": n_chains},
            [v / statistics.median(rates[1]) for v in values], "rate of one chain", measured,
        )


def volumes(bench: KernelBench) -> None:
    """The same against the volume: time of a trajectory over sites and solver iterations."""
    costs = {}
    for extent in (4, 6, 8, 10, 12):
        seconds, iterations = fermion_seconds(bench, extent, 8, repeats=1 if extent > 8 else 3)
        costs[extent] = [s / i / extent**4 for s, i in zip(seconds, iterations, strict=True)]
    for extent, values in costs.items():
        measured = {"rate": 1e9 * statistics.median(values), "unit": "ns a site and iteration"}
        bench.add(
            "HMC with fermions: volume", {"group": "SU(2)", "L": extent, "m": 0.3, "chains": 8},
            [v / statistics.median(costs[4]) for v in values], "time a site and iteration of 4^4", measured,
        )


def fermion_seconds(
    bench: KernelBench, extent: int, n_chains: int, repeats: int = 3
) -> tuple[list[float], list[float]]:
    """Seconds and solver iterations of trajectories of five Omelyan steps."""
    lattice, group = Lattice((extent,) * 4), SU2()
    target = SumAction(
        {"gauge": WilsonGauge(lattice, group, 2.7), "fermion": StaggeredFermion(lattice, group, 0.3)}
    )
    kernel, rng = HMC(target, 1.0, 5), bench.rng()
    state = kernel.init(group.cold(lattice, n_chains, bench.device), rng)
    state, _ = kernel.step(rng, state)
    seconds, iterations = [], []
    last: list[Any] = [state, None]

    def step() -> None:
        last[:] = kernel.step(rng, last[0])

    for _ in range(repeats):
        seconds.append(bench.seconds(step))
        iterations.append(sum(float(n.double().mean()) for n in last[1].iterations.values()))
    return seconds, iterations


def attention_memory(bench: KernelBench) -> None:
    """Most bytes alive in a force of two CASK blocks, stored or recomputed in the backward pass."""
    peaks = {}
    for kind in ("stored", "recomputed"):
        kernel, rng = make(8, torch.float32)
        network = kernel.effective.network  # type: ignore[attr-defined]
        # what counts bytes sees no kernels
        kernel.effective.fermion.operator.compiled = False  # type: ignore[attr-defined]
        network.to(bench.device)
        if kind == "recomputed":
            for layer in network.layers:
                inner = layer.forward
                layer.forward = lambda u, inner=inner: checkpoint(inner, u, use_reentrant=False)
        field = kernel.space.hot(kernel.lattice, 8, rng).to(bench.device)
        aux, _ = kernel.target.refresh(field, rng)
        kernel.effective.force(field, aux)
        with AllocatedBytes() as allocated:
            kernel.effective.force(field, aux)
        peaks[kind] = allocated.peak
    for kind, peak in peaks.items():
        measured = {"rate": peak / 8 / 2**20, "unit": "MiB a chain", "peak_bytes": peak}
        parameters = {"group": "SU(2)", "L": 4, "chains": 8, "blocks": 2, "precision": "32"}
        bench.add(
            f"CASK force: memory, blocks {kind}", parameters, [peak / peaks["stored"]],
            "memory with all stored", measured,
        )


def trajectories(bench: KernelBench, older: Path) -> None:
    """A trajectory of cask_su2 by this version and an older one, in turns, each in its own process."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def run(folder: Path, *options: str) -> float:
        command = [sys.executable, str(HERE / "trajectory.py"), *options]
        paths = {**environment, "PYTHONPATH": str(folder)}
        done = subprocess.run(command, env=paths, capture_output=True, text=True, check=True)
        return float(done.stdout.split()[-1])

    pairs = [(run(HERE.parents[1], "float32"), run(older)) for _ in range(3)]
    measured = {"rate": 1e3 * statistics.median(p[0] for p in pairs), "unit": "ms"}
    bench.add(
        "self-learning HMC trajectory of cask_su2",
        {"group": "SU(2)", "L": 4, "chains": 16, "blocks": 2, "precision": "32"},
        [old / new for new, old in pairs],
        "time of the first landed version (d66a021, networks in float64)", measured,
    )


def first_calls(bench: KernelBench) -> None:
    """Seconds of the first call of kernels in a process with an empty cache, and in the next process."""
    if bench.device.type == "cuda":
        return
    for name in FIRST:
        with TemporaryDirectory() as cache:
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "TORCHINDUCTOR_CACHE_DIR": cache}
            times = []
            for _ in range(2):
                command = [sys.executable, __file__, "--first", name]
                done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
                times.append(float(done.stdout.split()[-1]))
        for when, seconds in zip(("empty cache", "next process"), times, strict=True):
            measured = {"rate": seconds, "unit": "s"}
            bench.add(
                f"first call, {when}: {name}", {"group": name.split()[-1], "L": 4, "chains": 8},
                [seconds / times[0]], "time with an empty cache", measured,
            )


def first_call(name: str) -> None:
    """Print the seconds of the first call of a kernel in this process."""
    torch.set_num_threads(1)
    group: Group = SU2() if name.endswith("SU(2)") else SUN(3)
    lattice, rng = Lattice((4,) * 4), torch.Generator().manual_seed(1)
    links = group.hot(lattice, 8, rng)
    if name.startswith("hop"):
        operator = StaggeredOperator(lattice, group)
        matrices, psi = operator.hop_matrices(group.pack(links)), operator.gaussian(8, rng)
        run: Run = lambda: operator.hop(matrices, psi, EVEN)  # noqa: E731
    elif name.startswith("force"):
        action, motion = WilsonGauge(lattice, group, 2.5), group.to_motion(links)
        run = lambda: action.motion_force(motion, {})  # noqa: E731
    else:
        motion, omega = group.to_motion(links), group.pack_algebra(group.momentum(links, rng))
        run = lambda: torch.no_grad()(group.move)(motion, omega)  # noqa: E731
    start = perf_counter()
    run()
    print(perf_counter() - start)


# -- results -------------------------------------------------------------------------------------------


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    lines = ["| what | device | time or rate | ratio: median (range) | against |", "| --- |" + " --- |" * 4]
    for row in rows:
        p, measured = row["parameters"], row["measured"]
        what = f"{row['row']}, {p['group']}, {p['L']}^{p.get('d', 4)}, {p['chains']} chains"
        what += f", float{p['precision']}" if "precision" in p else ""
        rate = f"{number(measured['rate'])} {measured['unit']}"
        if row["against"].startswith("bound"):
            rate += f" (copy {number(measured['copy_ms'])}, flops {number(measured['arithmetic_ms'])} ms)"
        lines.append(f"| {what} | {row['device']} | {rate} | {spread(row['ratio'])} | {row['against']} |")
    return "\n".join(lines)


def figure(rows: list[dict[str, Any]]) -> Figure:
    """Speed over plain torch and over the bound; chains and volumes."""
    drawing = Figure(figsize=(11, 6), layout="constrained")
    left, right = drawing.subplots(1, 2, width_ratios=(2, 1))
    kinds = {
        "time of plain": ("o", "#0072B2", "plain torch over ours"),
        "bound": ("s", "#E69F00", "ours over bound"),
    }
    chosen = [r for r in rows if r["against"].startswith(tuple(kinds))]
    labels = list(dict.fromkeys(label(r) for r in chosen))
    for kind, (marker, colour, name) in kinds.items():
        of_kind = [r for r in chosen if r["against"].startswith(kind)]
        ratios = [r["ratio"] for r in of_kind]
        bars = [[r["value"] - r["min"] for r in ratios], [r["max"] - r["value"] for r in ratios]]
        heights = [labels.index(label(r)) for r in of_kind]
        values = [r["value"] for r in ratios]
        left.errorbar(values, heights, xerr=bars, fmt=marker, color=colour, label=name)
    left.set_yticks(range(len(labels)), labels, fontsize=7)
    left.axvline(2, color="#E69F00", linewidth=0.8, linestyle=":")
    left.axvline(5, color="#0072B2", linewidth=0.8, linestyle=":")
    left.set(xscale="log", xlabel="ratio (dotted: the aims)")
    left.set_xticks([1, 2, 5, 10, 20], ["1", "2", "5", "10", "20"])
    left.minorticks_off()
    left.invert_yaxis()
    left.legend(fontsize=8)
    scaling = [r for r in rows if r["row"] == "HMC with fermions: chains"]
    counts, rates = zip(*((r["parameters"]["chains"], r["measured"]["rate"]) for r in scaling), strict=True)
    right.loglog(counts, rates, "o-", color="#0072B2")
    right.set(xlabel="chains", ylabel="chain-trajectories/s, SU(2), 4^4, m = 0.3")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    return drawing


def label(row: dict[str, Any]) -> str:
    """Name in the figure."""
    p = row["parameters"]
    device = "" if row["device"].startswith("CPU") else f", {row['device']}"
    return f"{row['row']}, {p['group']}, {p['L']}^4 x {p['chains']}{device}"


def main() -> None:
    """Measure, write."""
    if "--first" in sys.argv:
        first_call(sys.argv[-1])
        return
    torch.set_num_threads(1)
    keep_memory()
    start, rows = perf_counter(), list[dict[str, Any]]()
    devices = [torch.device("cpu")] + ([torch.device("cuda")] if torch.cuda.is_available() else [])
    for device in devices:
        bench = KernelBench(device)
        print(f"{bench.name}: copies {bench.copy():.1f} GB/s (each byte counted once)", flush=True)
        for part in (dirac, gauge, attention, pure_gauge, chains, volumes, attention_memory, first_calls):
            part(bench)
            print(f"{perf_counter() - start:.0f} s so far", flush=True)
        if len(sys.argv) > 1 and device.type == "cpu":
            trajectories(bench, Path(sys.argv[1]))
        rows += bench.rows
    write_rows(rows, COMMAND)
    figure(rows).savefig(HERE / "kernels.png", dpi=150)
    write_table("kernels", table(rows))


if __name__ == "__main__":
    main()
