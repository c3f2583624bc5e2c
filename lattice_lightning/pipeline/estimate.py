"""How long a run will take, from one measured piece of every stage."""

import resource
import sys
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from lattice_lightning.actions import Aux
from lattice_lightning.methods import ActionRegression, ContinuityRegression, SweepRegression
from lattice_lightning.methods.action_regression import PairBatch
from lattice_lightning.methods.flow_method import FlowMethod
from lattice_lightning.pipeline.experiment import Experiment
from lattice_lightning.pipeline.flows import build_proposal, fresh_start
from lattice_lightning.samplers import SCHEMES, SelfLearningHMC, WeightedProposal

__all__ = ["Stage", "measure_stages", "print_plan"]

# a model at work on thermalised fields iterates longer than on the probe's start
MARGIN = 1.25


@dataclass(frozen=True)
class Stage:
    """A stage with the seconds it will take, roughly."""

    name: str
    work: str
    seconds: float


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _force_evaluations(kernel: SelfLearningHMC) -> int:
    """Forces a trajectory, of the innermost level's count for several."""
    total, intervals = 0, 1
    for level in kernel.levels:
        kicks = len(SCHEMES[level.scheme][0]) - 1
        total = max(total, intervals * level.n_steps * kicks + 1)
        intervals *= level.n_steps * len(SCHEMES[level.scheme][1])
    return total


def measure_stages(experiment: Experiment) -> list[Stage]:
    """Run one trajectory of HMC, one training step and one force of every row; extrapolate."""
    stages = _regression_stages(experiment) if experiment.needs_hmc else []
    names = [n for n, r in experiment.rows.items() if r["sampler"] not in ("hmc", "self_learning_hmc")]
    flows = [stage for name in names for stage in flow_stages(experiment, name)]
    # as they come: all training, then draws, then chains
    order = ("train", "weigh", "sample")
    return stages + [stage for kind in order for stage in flows if stage.name.startswith(kind)]


def flow_stages(experiment: Experiment, name: str) -> list[Stage]:
    """One training step, one batch of draws, one step of the chains of a row with a flow."""
    config, device = experiment.config, experiment.system.device
    row, size = experiment.rows[name], experiment.batch_size
    sampling = row["sampling"]
    rng = torch.Generator(device)
    rng.manual_seed(0)
    stages = []
    proposal = build_proposal(experiment.system, row, experiment.flow_model(name), size)
    draw = _time_draw(proposal, rng, min(size, config["importance"]["n"]))
    if name in experiment.weighted:
        n = config["importance"]["n"]
        stages.append(Stage(f"weigh {name}", f"{n} draws", n * draw))
    if name in experiment.trained:
        method, beside = experiment.flows[name], config["importance"]["beside_training"]
        assert isinstance(method, FlowMethod)
        steps = method.n_epochs * method.steps_per_epoch
        runs = -(-method.n_epochs // beside["every_n_epochs"]) * beside["n"]
        seconds = steps * _time_training_step(method, rng) + runs * draw
        stages.append(Stage(f"train {name}", f"{steps} steps", MARGIN * seconds))
    n_chains = config["stream"]["n_chains"]
    per_step = n_chains * draw
    if row["sampler"] in ("alternating", "latent_hmc"):
        kernel = experiment.kernels[name]
        start = fresh_start(experiment.system, row, experiment.flow_model(name), n_chains, 0, name)
        state = kernel.init(start, rng)
        per_step = _seconds(lambda: kernel.step(rng, state), device)
    n = sampling["n_thermalise"] + sampling["n_steps"]
    return [*stages, Stage(f"sample {name}", f"{n} steps", n * per_step)]


def _time_draw(proposal: WeightedProposal, rng: torch.Generator, n: int) -> float:
    """Seconds a draw, of a whole batch where that does not take long."""
    few = min(n, 16)
    seconds = _seconds(lambda: proposal.sample(few, rng), rng.device)
    if few < n and seconds * n / few < 5:
        few, seconds = n, _seconds(lambda: proposal.sample(n, rng), rng.device)
    return seconds / few


def _seconds(work: Callable[[], Any], device: torch.device, always: bool = False) -> float:
    """Of one call, after one that warms up: always, or if that is short."""
    for _ in range(2):
        tic = perf_counter()
        work()
        _synchronise(device)
        seconds = perf_counter() - tic
        if seconds > 1 and not always:
            break
    return seconds


def _time_training_step(method: FlowMethod, rng: torch.Generator) -> float:
    """Forward and backward, or one node of a closed-form fit; leaves the module as it was."""
    if isinstance(method, ContinuityRegression | SweepRegression):
        fit = method if isinstance(method, ContinuityRegression) else method.__dict__["inner"]
        return _time_node(fit, rng)
    loss = getattr(method, "loss", None)
    if loss is None:
        return 0.0
    saved = {k: v.clone() for k, v in method.state_dict().items()}

    def work() -> None:
        value = loss(rng)
        value = value[0] if isinstance(value, tuple) else value
        value.backward()

    seconds = _seconds(work, rng.device)
    method.load_state_dict(saved)
    method.zero_grad(set_to_none=True)
    return seconds


def _time_node(method: ContinuityRegression, rng: torch.Generator) -> float:
    """Trajectories and rows of one node."""
    basis, path, device = method.flow.basis, method.path, rng.device
    # the only node whose action is known before the fit
    node = path.visits[0]
    kernel = path.kernel(node)
    state = kernel.at(path.start(method.n_chains, rng))
    trajectory = _seconds(lambda: kernel.step(rng, state), device)

    def design() -> None:
        basis.design(basis.start(state.field), basis.pack_force(path.force(state.field, node)))

    with torch.no_grad():
        rows = _seconds(design, device)
    return method.n_measure * (method.separation * trajectory + rows) + method.n_relax * trajectory


def _regression_stages(experiment: Experiment) -> list[Stage]:
    """Rows of HMC and self-learning HMC, and the stream that these train on."""
    config, device = experiment.config, experiment.system.device
    rng = torch.Generator(device)
    rng.manual_seed(0)
    field = experiment.start()
    hmc = experiment.system.hmc()
    tic = perf_counter()
    hmc.target.refresh(field, rng)
    _synchronise(device)
    warm_up = perf_counter() - tic
    tic = perf_counter()
    trajectory = hmc.propose(rng, hmc.init(field, rng))
    _synchronise(device)
    t_hmc = MARGIN * (perf_counter() - tic)
    state, _ = hmc.decide(rng, trajectory)
    batch = {
        "start": trajectory.start, "end": state.field, "aux": dict(trajectory.aux),
        "action_start": trajectory.action_start, "action_end": trajectory.action_end,
    }
    stream = config["stream"]
    stages = [Stage("compile", "first calls", warm_up)] if warm_up > 2 * t_hmc else []
    n_held = stream["n_held_out"] + stream["n_thermalise"] if experiment.methods else 0
    n_thermal = stream["n_thermalise"]
    stages.append(Stage("thermalise", f"{n_thermal} trajectories", n_thermal * t_hmc))
    if experiment.n_stream:
        stages.append(Stage("stream", f"{experiment.n_stream} trajectories", experiment.n_stream * t_hmc))
    if n_held and stream["n_held_out"]:
        stages.append(Stage("held out", f"{n_held} trajectories", n_held * t_hmc))
    rows = [n for n, r in experiment.rows.items() if r["sampler"] in ("hmc", "self_learning_hmc")]
    t_target = _time_force(hmc, field, trajectory.aux, device)
    # refresh and accept step: what a trajectory of HMC takes beside its forces
    rest = max(t_hmc - MARGIN * _force_evaluations(hmc) * t_target, 0.1 * t_hmc)
    cost = {}
    for name in rows:
        kernel = experiment.kernels[name]
        assert isinstance(kernel, SelfLearningHMC)
        own = kernel.levels != hmc.levels
        cost[name] = rest + MARGIN * _force_evaluations(kernel) * t_target if own else t_hmc
    for name, method in experiment.methods.items():
        kernel = experiment.kernels[name]
        assert isinstance(kernel, SelfLearningHMC)
        t_force = _time_force(kernel, field, trajectory.aux, device)
        cost[name] = MARGIN * _force_evaluations(kernel) * t_force + rest
        if name in experiment.trained:
            t_step = MARGIN * _time_step(method, batch, device)
            training = experiment.rows[name]["training"]
            steps = training["epochs"] * training["trajectories_per_epoch"]
            short = config["short_sampling"]
            runs = -(-training["epochs"] // short["every_n_epochs"]) * short["n_trajectories"]
            stages.append(
                Stage(f"train {name}", f"{steps} steps", steps * t_step + runs * cost[name])
            )
    for name in rows:
        sampling = experiment.rows[name]["sampling"]
        n = sampling["n_thermalise"] + sampling["n_steps"] + 2
        stages.append(Stage(f"sample {name}", f"{n} trajectories", n * cost[name]))
    return stages


def _time_force(kernel: SelfLearningHMC, field: Tensor, aux: Aux, device: torch.device) -> float:
    """Seconds of one force; the first call of a network compiles."""
    seconds = _seconds(lambda: kernel.effective.force(field, aux, strict=False), device, always=True)
    kernel.effective.pop_iterations()
    return seconds


def _time_step(method: ActionRegression, batch: PairBatch, device: torch.device) -> float:
    """Forward and backward, twice; the first call compiles. Leaves the module as it was."""
    saved = {k: v.clone() for k, v in method.state_dict().items()}
    seconds = 0.0
    for _ in range(2):
        tic = perf_counter()
        loss = method.loss(batch)
        if loss.requires_grad:
            loss.backward()
        _synchronise(device)
        seconds = perf_counter() - tic
    method.load_state_dict(saved)
    method.zero_grad(set_to_none=True)
    return seconds


def clock(seconds: float) -> str:
    """Seconds as 45 s, 3 min 20 s or 2 h 05 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{max(whole, 1)} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def print_plan(experiment: Experiment, stages: list[Stage], console: Console) -> None:
    """Shapes, parameters, memory and time of what is about to run."""
    system, config = experiment.system, experiment.config
    field = experiment.start()
    field_mb = field.numel() * field.element_size() / 2**20
    n_stored = experiment.n_stream + (config["stream"]["n_held_out"] if experiment.methods else 0)
    disk = n_stored * 3.2 * field_mb
    # Linux counts kilobytes, macOS bytes
    unit = 2**20 if sys.platform == "darwin" else 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    console.print(
        f"{system.space.name} on {'x'.join(map(str, system.lattice.shape))}, "
        f"{field.shape[0]} chains a process on {system.device}, field {list(field.shape)} "
        f"({field_mb:.1f} MiB); about {disk:.0f} MiB of trajectories on disk; memory in use after "
        f"one step of everything {peak:.0f} MiB"
    )
    rows = Table("row", "sampler", "model", "parameters", "trained")
    for name, row in experiment.rows.items():
        method, flow = experiment.methods.get(name), experiment.flow_model(name)
        count = 0 if method is None else method.effective.n_parameters
        model = "" if method is None else describe(method)
        if flow is not None:
            count, model = flow.n_parameters, f"{type(flow.prior).__name__}, {type(flow.flow).__name__}"
        rows.add_row(name, row["sampler"], model, str(count), "yes" if name in experiment.trained else "")
    console.print(rows)
    times = Table("stage", "work", "about")
    for stage in stages:
        times.add_row(stage.name, stage.work, clock(stage.seconds))
    times.add_row("all", "", clock(sum(s.seconds for s in stages)), style="bold")
    console.print(times)


def describe(method: ActionRegression) -> str:
    """Masses and network of an effective action, in a few words."""
    effective = method.effective
    masses = ", ".join(f"{m:g}" for m in effective.masses)
    network = "" if effective.network is None else f", {type(effective.network).__name__}"
    return f"m = {masses}{network}"
