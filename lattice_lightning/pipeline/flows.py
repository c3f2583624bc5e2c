"""Flows from config: prior, layers, the method that trains them, and the kernels that sample with them."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lattice_lightning.data import Ensemble
from lattice_lightning.exceptions import InputError
from lattice_lightning.methods.action_path import ActionPath
from lattice_lightning.methods.flow_method import FlowMethod
from lattice_lightning.models import Flow, FlowModel, FlowStack, Prior
from lattice_lightning.pipeline.build import System, instantiate, make_factory, try_factories
from lattice_lightning.pipeline.checks import explained
from lattice_lightning.samplers import (
    Alternating,
    AnnealedImportanceSampling,
    DensityProposal,
    IndependenceMetropolis,
    Kernel,
    LatentHMC,
    WeightedProposal,
)

__all__ = ["build_flow_kernel", "build_flow_method", "build_model", "build_proposal", "fresh_start"]

_STEPS = ("T_max", "total_steps", "total_iters", "max_iters")


def _nested(config: Any, context: Mapping[str, Any], kind: type[nn.Module] = nn.Module) -> Any:
    """Modules of a config, those inside it made first; what has no ``_target_`` stays as it is."""
    if isinstance(config, list):
        return [_nested(entry, context) for entry in config]
    if not isinstance(config, Mapping) or "_target_" not in config:
        return config
    inner = {key: _nested(value, context) for key, value in config.items()}
    return instantiate(inner, kind, **context)


def build_model(system: System, row: Mapping[str, Any], name: str, seed: int) -> FlowModel:
    """Prior and flow of a row; the same seed gives the same initial weights.

    Args:
        system: what the flow lives on.
        row: expanded row with ``prior`` and ``flow``.
        name: of the row.
        seed: of the initial weights.

    Raises:
        InputError: for layers of another field, or that do not fit the lattice.
    """
    context: dict[str, Any] = {"lattice": system.lattice, "space": system.space, "group": system.space}
    context["rng"] = torch.Generator().manual_seed(seed)
    prior = instantiate(row["prior"], Prior, **context)  # type: ignore[type-abstract]
    given = row["flow"]
    if not isinstance(given, Mapping):
        raise InputError(
            f"row {name!r}: flow must be like {{_target_: ...}} or {{layers: [...]}}, got {given!r}"
        )
    # for layers that draw their weights from torch's global generator
    with torch.random.fork_rng(devices=[]), explained(f"row {name!r}, flow of {given}"):
        torch.manual_seed(seed)
        if "_target_" in given:
            flow: Flow = _nested(given, context, Flow)
        elif isinstance(given.get("layers"), list) and len(given) == 1:
            flow = FlowStack([_nested(layer, context, Flow) for layer in given["layers"]])
        else:
            raise InputError(f"row {name!r}: flow needs `_target_` or `layers` alone, got {dict(given)}")
        return FlowModel(prior, flow)


def build_flow_method(
    system: System, row: Mapping[str, Any], name: str, model: FlowModel, seed: int
) -> FlowMethod:
    """The LightningModule that trains the flow of a row.

    Args:
        system: what is sampled.
        row: expanded row.
        name: of the row.
        model: prior and flow, trained in place.
        seed: of training.

    Raises:
        InputError: for an option that the method does not have, or cannot work with.
    """
    training = dict(row["training"])
    if "_target_" not in training:
        raise InputError(
            f"row {name!r}: training needs a `_target_`, such as lattice_lightning.methods.ReverseKL"
        )
    steps = {key: _n_steps(training) for key in _STEPS}
    make_optimizer = make_factory(training.pop("optimizer", None), Optimizer, "params")
    make_scheduler = make_factory(training.pop("scheduler", None), LRScheduler, "optimizer", **steps)
    forward = training.get("forward_kl")
    if isinstance(forward, Mapping) and isinstance(forward.get("fields"), str):
        training["forward_kl"] = {**forward, "fields": Ensemble(forward["fields"])}
    if isinstance(training.get("path"), Mapping):
        path = instantiate(training["path"], ActionPath, target=system.target)  # type: ignore[type-abstract]
        training["path"] = path
    with explained(f"row {name!r}, training"):
        try_factories(make_optimizer, make_scheduler)
    context = {
        "model": model, "target": system.target, "label": name, "seed": seed,
        "optimizer": make_optimizer, "scheduler": make_scheduler,
        "space": system.space, "lattice": system.lattice,
    }
    method = instantiate(training, FlowMethod, **context)
    return method.to(system.device)


def _n_steps(training: Mapping[str, Any]) -> int:
    try:
        return max(1, int(training.get("n_epochs", 1)) * int(training.get("steps_per_epoch", 1)))
    except (TypeError, ValueError):
        # the method says what is wrong with them
        return 1


def build_proposal(
    system: System, row: Mapping[str, Any], model: FlowModel | None, batch_size: int
) -> WeightedProposal:
    """Independent draws with log weights: of a flow, or by annealing from a density to the target."""
    if row["sampler"] != "annealed":
        assert model is not None
        return DensityProposal(model, system.target, batch_size)
    given = dict(row.get("annealing") or {})
    context: dict[str, Any] = {**system.integrator({"integrator": given.pop("integrator", None)})}
    if model is None:
        place = {"lattice": system.lattice, "space": system.space, "group": system.space}
        prior = instantiate(row["prior"], Prior, **place)  # type: ignore[type-abstract]
    else:
        # a stochastic flow: a layer, then a step of HMC, with the weight of the whole path
        prior = model.prior
        layers = list(model.flow.layers) if isinstance(model.flow, FlowStack) else [model.flow]
        context.update(layers=layers, n_steps=len(layers))
    config = {
        "_target_": f"{AnnealedImportanceSampling.__module__}.AnnealedImportanceSampling",
        **given,
    }
    return instantiate(
        config, AnnealedImportanceSampling, prior=prior.to(system.device), target=system.target,
        batch_size=batch_size, **context,
    )


def build_flow_kernel(
    system: System, row: Mapping[str, Any], model: FlowModel | None, batch_size: int
) -> Kernel:
    """The exact kernel of a row with a flow (or annealing), as the flow is now."""
    if row["sampler"] == "latent_hmc":
        assert model is not None
        return LatentHMC(system.target, model.flow, **system.integrator(row))
    independence = IndependenceMetropolis(build_proposal(system, row, model, batch_size))
    if row["sampler"] != "alternating":
        return independence
    return Alternating([(independence, row["n_flow"]), (system.hmc(row), row["n_hmc"])])


def fresh_start(
    system: System, row: Mapping[str, Any], model: FlowModel | None, n: int, seed: int, name: str = ""
) -> Tensor:
    """Fields that the chains of a flow start from: drawn from it, so that no frozen chain decides.

    Raises:
        InputError: when the flow draws hardly any field of finite weight.
    """
    rng = torch.Generator(system.device)
    rng.manual_seed(seed)
    if model is None or row["sampler"] == "annealed":
        # the kernel draws a start of its own: a field alone has no weight in the extended space
        return system.space.hot(system.lattice, n, rng)
    proposal = build_proposal(system, {"sampler": "independence"}, model, n)
    field, log_weight = proposal.sample(n, rng)
    for _ in range(100):
        bad = ~torch.isfinite(log_weight)
        if not bool(bad.any()):
            return field
        field[bad], log_weight[bad] = proposal.sample(int(bad.sum()), rng)
    raise InputError(
        f"row {name!r}: the flow draws hardly any field of finite weight: train it further, or look for "
        "nan in it"
    )
