"""Speed and memory of the flows, as ratios measured in one run.

    python experiments/benchmarks/flows.py

Contestants take turns (ours, plain, copy, ours, plain, copy, ...), every ratio is between neighbours, and
the table shows median, smallest and largest. Writes results.json, figure.png and the table in README.md.
"""

import json
import statistics
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import torch
from matplotlib.figure import Figure
from memory import AllocatedBytes
from plain_continuous import PlainContinuous
from plain_phi4 import PlainPhi4, plain_action
from plain_u1 import PlainU1, plain_u1_action
from torch import Tensor, nn

from lattice_lightning.actions import Action, Phi4, WilsonGauge
from lattice_lightning.groups import SUN, U1
from lattice_lightning.lattice import Lattice
from lattice_lightning.methods import ContinuityRegression, ReverseKL
from lattice_lightning.models import (
    ContinuousFlow,
    FlowModel,
    GaussianFieldPrior,
    GaussianPrior,
    GroupSweep,
    HaarPrior,
    PlaneWaves,
    RealNVP,
    SweepFlow,
    U1Flow,
)
from lattice_lightning.pipeline.device import keep_memory

HERE = Path(__file__).parent
COMMAND = "python experiments/benchmarks/flows.py"
#: GB/s that torch copied on the core where the other packages were timed, each byte counted once
PEER_COPY = 12.6
#: bytes copied at a time, beyond any cache of a core
COPY_BYTES = 2**26

Run = Callable[[], Any]
Draw = Callable[[], tuple[Tensor, Tensor]]


class Bench:
    """Times contestants in turns on one device and collects rows."""

    command = COMMAND

    def __init__(self, device: torch.device) -> None:
        self.device, self.rows = device, list[dict[str, Any]]()
        cuda = device.type == "cuda"
        self.name = torch.cuda.get_device_name(device) if cuda else "CPU, 1 thread"
        self.source = torch.ones(COPY_BYTES // 4, device=device)
        self.sink = torch.zeros_like(self.source)
        self.copies = list[float]()

    def seconds(self, run: Run) -> float:
        """Time of one call: of the processor on one core, so that it may be shared; else of the clock."""
        clock = perf_counter if self.device.type == "cuda" else process_time
        self._wait()
        start = clock()
        run()
        self._wait()
        return clock() - start

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def copy(self) -> float:
        """GB/s of a copy, each byte counted once: the mean of four."""
        rate = 4 * COPY_BYTES / 1e9 / self.seconds(lambda: [self.sink.copy_(self.source) for _ in range(4)])
        self.copies.append(rate)
        return rate

    def race(
        self,
        row: str,
        parameters: dict[str, Any],
        ours: Run,
        plain: Run | None = None,
        peer: float | None = None,
        per_call: float = 1.0,
        unit: str = "steps/s",
        repeats: int = 5,
        against: str = "plain torch",
    ) -> None:
        """Rows of a contest.

        Args:
            row: what is measured.
            parameters: of the system.
            ours: one call of this package.
            plain: the same by the plain formulation.
            peer: rate of another package, at ``PEER_COPY``.
            per_call: steps or samples a call.
            unit: of the rate.
            repeats: rounds.
            against: what ``plain`` is.
        """
        with AllocatedBytes() as allocated:
            ours()
        if plain is not None:
            plain()
        rates, copies, speedups, of_copy = [], [], [], []
        for _ in range(repeats):
            time = self.seconds(ours)
            if plain is not None:
                speedups.append(self.seconds(plain) / time)
            copies.append(self.copy())
            rates.append(per_call / time)
            of_copy.append(time / (allocated.total / 1e9 / copies[-1]))
        measured = {
            "rate": statistics.median(rates), "unit": unit, "copy_GB_per_s": statistics.median(copies),
            "allocated_bytes": allocated.total,
        }
        if speedups:
            self.add(row, parameters, speedups, f"time of {against}", measured)
        self.add(row, parameters, of_copy, "copy of the bytes that it allocates (times as long)", measured)
        if peer is not None:
            scaled = [r / peer * PEER_COPY / c for r, c in zip(rates, copies, strict=True)]
            other = f"another package, {peer:g} {unit}"
            self.add(row, parameters, scaled, f"{other}, scaled by the copy", measured)
            self.add(row, parameters, [r / peer for r in rates], f"{other}, not scaled", measured)

    def add(
        self,
        row: str,
        parameters: dict[str, Any],
        ratios: list[float],
        against: str,
        measured: dict[str, Any],
    ) -> None:
        """One row of results.json."""
        ratio = {"value": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}
        self.rows.append(
            {
                "row": row, "parameters": parameters, "command": self.command, "ratio": ratio,
                "against": against, "device": self.name, "measured": measured,
            }
        )
        rate = f"{measured['rate']:.4g} {measured['unit']}"
        print(f"{self.name} | {row} | {rate} | {against}: {spread(ratio)}", flush=True)

    def rng(self, seed: int = 1) -> torch.Generator:
        """A generator on the device."""
        return torch.Generator(self.device).manual_seed(seed)


def number(x: float) -> str:
    """Three digits."""
    return f"{x:.3g}" if abs(x) < 1000 else f"{x:.0f}"


def spread(ratio: dict[str, float]) -> str:
    """Median and range."""
    return f"{number(ratio['value'])} ({number(ratio['min'])}-{number(ratio['max'])})"


# -- one step of training, one batch of draws -----------------------------------------------------------


def our_step(bench: Bench, model: FlowModel, target: Action, n: int) -> Run:
    """Loss, gradient and Adam step of ReverseKL, fields in single precision."""
    method = ReverseKL(
        model, target, batch_size=n, n_epochs=1, steps_per_epoch=1,
        optimizer=partial(torch.optim.Adam, lr=1e-6), precision="32",
    )
    optimizer, rng = torch.optim.Adam(model.parameters(), lr=1e-6), bench.rng()

    def step() -> None:
        optimizer.zero_grad()
        loss, _ = method.loss(rng)
        loss.backward()
        optimizer.step()

    return step


def plain_step(model: nn.Module, draw: Draw, action: Callable[[Tensor], Tensor]) -> Run:
    """The same in plain torch."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-6)

    def step() -> None:
        optimizer.zero_grad()
        x, log_q = draw()
        (log_q + action(x)).mean().backward()
        optimizer.step()

    return step


def our_draws(bench: Bench, model: FlowModel, target: Action, n: int, dtype: torch.dtype) -> Run:
    """Fields, log q and action."""
    rng = bench.rng()

    @torch.no_grad()
    def draw() -> Tensor:
        field, log_q = model.sample(n, rng, dtype)
        return log_q + target.energy(field)

    return draw


def plain_draws(draw: Draw, action: Callable[[Tensor], Tensor]) -> Run:
    """The same in plain torch."""

    @torch.no_grad()
    def run() -> Tensor:
        x, log_q = draw()
        return log_q + action(x)

    return run


def load(plain: nn.Module, model: FlowModel) -> None:
    """Put the weights of our network into the plain one."""
    with torch.no_grad():
        for a, b in zip(plain.parameters(), model.flow.parameters(), strict=True):
            a.copy_(b.reshape(a.shape))


def agree(
    transform: Callable[[Tensor], tuple[Tensor, Tensor]], model: FlowModel, rng: torch.Generator
) -> None:
    """Both formulations are the same map, in double precision."""
    with torch.no_grad():
        z = model.prior.sample(8, rng)
        for a, b in zip(transform(z), deepcopy(model.flow).double()(z), strict=True):
            # angles modulo 2 pi
            same = (a - b).abs() if a.ndim < 4 else (a - b).sin().abs()
            assert float(same.max()) < 1e-10, float(same.max())


def couplings(
    bench: Bench, name: str, model: FlowModel, plain: Any, target: Action,
    action: Callable[[Tensor], Tensor], peers: tuple[float, float], parameters: dict[str, Any],
) -> None:
    """Training step and draws of a flow of couplings."""
    load(plain, model)
    rng = bench.rng()
    bench.race(
        f"{name}: training step", {**parameters, "batch": 64, "precision": "32"},
        our_step(bench, model, target, 64),
        plain_step(plain, partial(plain.sample, 64, rng), action), peers[0], repeats=9,
    )
    # single precision against single, and what is accepted on against the plain flow in double
    double = deepcopy(plain).double()
    # both have trained since
    load(double, model)
    agree(double.transform, model, rng)
    for precision, dtype, peer_model in (("32", torch.float32, plain), ("64", torch.float64, double)):
        bench.race(
            f"{name}: samples", {**parameters, "batch": 1024, "log q": f"float{precision}"},
            our_draws(bench, model, target, 1024, dtype),
            plain_draws(partial(peer_model.sample, 1024, rng), action), peers[1], 1024, "samples/s",
        )


def phi4(bench: Bench) -> None:
    """The tutorial's phi^4 flow."""
    lattice = Lattice((8, 8))
    model = FlowModel(GaussianPrior(lattice), RealNVP(lattice)).to(bench.device)
    couplings(
        bench, "phi^4 tutorial", model, PlainPhi4().to(bench.device), Phi4(lattice, -4.0, 8.0),
        plain_action, (18, 6000), {"L": 8, "couplings": 16},
    )


def u1(bench: Bench) -> None:
    """The tutorial's U(1) flow on 16^2."""
    lattice, group = Lattice((16, 16)), U1()
    model = FlowModel(HaarPrior(lattice, group), U1Flow(lattice, group)).to(bench.device)
    couplings(
        bench, "U(1) 16 couplings", model, PlainU1(16).to(bench.device), WilsonGauge(lattice, group, 2.0),
        lambda x: plain_u1_action(x, 2.0), (6, 960), {"L": 16, "couplings": 16, "beta": 2.0},
    )


def continuous(bench: Bench) -> None:
    """Continuous flows of phi^4 at L = 32: the published velocity and ours."""
    lattice = Lattice((32, 32))
    target = Phi4(lattice, -4.0, 4.572)
    prior = GaussianPrior(lattice)
    n_train, n_draw = 8, 16
    for name, n_steps in (("published velocity", 50), ("plane waves", 16)):
        published = name == "published velocity"
        basis = PlaneWaves.local(lattice) if published else PlaneWaves(lattice)
        n_nodes = 2 * n_steps + 1 if published else 17
        flow = ContinuousFlow(lattice, basis, n_nodes=n_nodes, n_steps=n_steps, memory="adjoint")
        with torch.no_grad():
            flow.coefficients.normal_(0.0, 1e-3, generator=torch.Generator().manual_seed(1))
        model = FlowModel(prior, flow).to(bench.device)
        parameters = {"L": 32, "lam": 4.572, "RK4 steps": n_steps, "parameters": flow.n_parameters}
        plain, draw = None, None
        if published:
            modes = basis._table(basis.widths).kernel[:, 0]
            kernels = torch.fft.irfftn(modes, s=lattice.shape, dim=(1, 2))
            plain = PlainContinuous((32, 32), kernels.cpu(), 6, basis.frequency, n_steps)
            plain = plain.to(bench.device).double()
            load(plain, model)
            agree(plain, model, bench.rng())
            plain.float()
            draw = partial(draw_from, plain, prior, bench.rng())

        bench.race(
            f"continuous, {name}: training step by reverse KL",
            {**parameters, "batch": n_train, "memory": "adjoint", "precision": "32",
             "rate": "counted in steps of batch 64"},
            our_step(bench, model, target, n_train),
            plain_step(plain, partial(draw, n_train), plain_action_32) if plain and draw else None,
            0.01, n_train / 64, repeats=2, against="plain torch, all steps stored",
        )
        for precision, dtype in (("32", torch.float32), ("64", torch.float64)):
            other = None
            if precision == "32" and draw is not None:
                other = plain_draws(partial(draw, n_draw), plain_action_32)
            bench.race(
                f"continuous, {name}: samples",
                {**parameters, "batch": n_draw, "log q": f"float{precision}"},
                our_draws(bench, model, target, n_draw, dtype), other,
                2, n_draw, "samples/s", repeats=3,
            )
        memory(bench, model, target, {**parameters, "batch": n_train, "precision": "32"}, name)


def draw_from(
    plain: PlainContinuous, prior: GaussianPrior, rng: torch.Generator, n: int
) -> tuple[Tensor, Tensor]:
    """Fields and log q of the plain continuous flow, in single precision."""
    z = prior.sample(n, rng).float()
    x, log_det = plain(z)
    return x, prior.log_prob(z) - log_det


def plain_action_32(x: Tensor) -> Tensor:
    """The action at the critical lam of L = 32."""
    return plain_action(x, -4.0, 4.572)


def memory(bench: Bench, model: FlowModel, target: Action, parameters: dict[str, Any], name: str) -> None:
    """Peak bytes of a training step with each way to keep the graph, against storing all."""
    flow, peaks, times = model.flow, {}, {}
    assert isinstance(flow, ContinuousFlow)
    for kind in ("store", "checkpoint", "adjoint"):
        flow.memory = kind
        step = our_step(bench, model, target, parameters["batch"])
        with AllocatedBytes() as allocated:
            step()
        peaks[kind], times[kind] = allocated.peak, bench.seconds(step)
    for kind, peak in peaks.items():
        measured = {"rate": peak / 2**20, "unit": "MiB", "peak_bytes": peak, "seconds": times[kind]}
        row = f"continuous, {name}: peak memory, {kind}"
        # bytes that live at one time are the same in every run
        bench.add(row, parameters, [peak / peaks["store"]], "memory with store", measured)
    flow.memory = "adjoint"


def closed_form(bench: Bench) -> None:
    """One node of the regression that replaces training: HMC along the path, design and solution."""
    lattice = Lattice((32, 32))
    model = FlowModel(
        GaussianFieldPrior(lattice), ContinuousFlow(lattice, PlaneWaves(lattice), n_nodes=25, n_steps=24)
    ).to(bench.device)
    method = ContinuityRegression(
        model, Phi4(lattice, -4.0, 4.572), n_chains=256, n_measure=10, n_thermalise=10, seed=1
    ).to(bench.device)
    nodes = iter(range(1, method.n_visits))
    method.fit_node(0)
    bench.race(
        "continuous, plane waves: closed-form fit of one node",
        {"L": 32, "lam": 4.572, "chains": 256, "measurements": 10, "nodes": 25},
        lambda: method.fit_node(next(nodes)), per_call=1, unit="nodes/s", repeats=3,
    )


def sweeps(bench: Bench) -> None:
    """The sweeps of two-dimensional gauge theories, which have no plain counterpart."""
    lattice, group = Lattice((16, 16)), U1()
    model = FlowModel(HaarPrior(lattice, group), SweepFlow(lattice, group)).to(bench.device)
    bench.race(
        "U(1) sweep over fluxes: samples", {"L": 16, "beta": 7.0, "batch": 1024, "log q": "float64"},
        our_draws(bench, model, WilsonGauge(lattice, group, 7.0), 1024, torch.float64),
        per_call=1024, unit="samples/s",
    )
    su3 = SUN(3)
    sweep = GroupSweep(lattice, su3)
    sweep.sweep.fit(6.0)
    model = FlowModel(HaarPrior(lattice, su3), sweep).to(bench.device)
    bench.race(
        "SU(3) plaquette sweep: samples", {"L": 16, "beta": 6.0, "batch": 256, "log q": "float64"},
        our_draws(bench, model, WilsonGauge(lattice, su3, 6.0), 256, torch.float64),
        per_call=256, unit="samples/s", repeats=3,
    )


# -- results -------------------------------------------------------------------------------------------


def write_rows(rows: list[dict[str, Any]], command: str) -> None:
    """Put the rows of a command into results.json in the place of its former ones."""
    path = HERE / "results.json"
    others = [row for row in json.loads(path.read_text()) if row["command"] != command]
    path.write_text(json.dumps([*others, *rows], indent=1) + "\n")


def write_table(name: str, text: str) -> None:
    """Put a table between its two marks in README.md."""
    readme = HERE / "README.md"
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, rest = readme.read_text().split(begin)
    readme.write_text(before + f"{begin}\n{text}\n{end}" + rest.split(end)[1])


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    lines = ["| what | device | rate | ratio: median (range) | against |", "| --- |" + " --- |" * 4]
    for row in rows:
        measured, parameters = row["measured"], row["parameters"]
        precision = parameters.get("log q") or f"float{parameters['precision']}" if (
            "log q" in parameters or "precision" in parameters
        ) else ""
        what = row["row"] + (f", {precision}" if precision else "")
        what += f", batch {parameters['batch']}" if "batch" in parameters else ""
        rate = f"{number(measured['rate'])} {measured['unit']}"
        lines.append(f"| {what} | {row['device']} | {rate} | {spread(row['ratio'])} | {row['against']} |")
    return "\n".join(lines)


def figure(rows: list[dict[str, Any]]) -> Figure:
    """Speed-ups with their ranges."""
    kinds = {"time of": ("o", "#0072B2"), "scaled by": ("s", "#E69F00")}
    chosen = [r for r in rows if any(k in r["against"] for k in kinds)]
    labels = list(dict.fromkeys(label(r) for r in chosen))
    drawing = Figure(figsize=(9, 0.4 * len(labels) + 1.2), layout="constrained")
    axes = drawing.subplots()
    for kind, (marker, colour) in kinds.items():
        of_kind = [r for r in chosen if kind in r["against"]]
        ratios = [r["ratio"] for r in of_kind]
        value = [r["value"] for r in ratios]
        bars = [[r["value"] - r["min"] for r in ratios], [r["max"] - r["value"] for r in ratios]]
        name = "plain torch, same process" if kind == "time of" else "other packages, scaled by the copy"
        heights = [labels.index(label(r)) for r in of_kind]
        axes.errorbar(value, heights, xerr=bars, fmt=marker, color=colour, label=name)
    axes.axvline(1.0, color="#999999", linewidth=0.8)
    axes.axvline(3.0, color="#999999", linewidth=0.8, linestyle=":")
    axes.set_yticks(range(len(labels)), labels, fontsize=7)
    axes.set(xscale="log", xlabel="times as fast (dotted: 3)")
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8)
    return drawing


def label(row: dict[str, Any]) -> str:
    """Name in the figure."""
    parameters = row["parameters"]
    precision = parameters.get("log q", f"float{parameters.get('precision', '64')}")
    return f"{row['row']}, {precision}" + ("" if row["device"].startswith("CPU") else f", {row['device']}")


def main() -> None:
    """Measure, write."""
    torch.set_num_threads(1)
    keep_memory()
    torch.manual_seed(1)
    start, rows = perf_counter(), list[dict[str, Any]]()
    devices = [torch.device("cpu")] + ([torch.device("cuda")] if torch.cuda.is_available() else [])
    for device in devices:
        bench = Bench(device)
        bench.copy()
        print(f"{bench.name}: copies {bench.copy():.1f} GB/s (each byte counted once)", flush=True)
        for part in (phi4, u1, continuous, closed_form, sweeps):
            part(bench)
        rows += bench.rows
        print(
            f"{bench.name}: copy {statistics.median(bench.copies):.1f} GB/s, from {min(bench.copies):.1f} "
            f"to {max(bench.copies):.1f}, {perf_counter() - start:.0f} s so far", flush=True,
        )
    write_rows(rows, COMMAND)
    figure(rows).savefig(HERE / "figure.png", dpi=150)
    write_table("table", table(rows))


if __name__ == "__main__":
    main()
