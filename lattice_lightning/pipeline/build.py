"""From a resolved config (plain dicts) to objects; everything is checked before long work starts."""

import inspect
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lattice_lightning.actions import Action, SumAction
from lattice_lightning.data.formats import read_configuration
from lattice_lightning.exceptions import InputError
from lattice_lightning.gauge import set_sectors, start_field
from lattice_lightning.groups import FieldSpace, Group, from_name
from lattice_lightning.lattice import Lattice
from lattice_lightning.methods import ActionRegression
from lattice_lightning.models import EffectiveAction, LinkMap
from lattice_lightning.observables import Observable
from lattice_lightning.pipeline.checks import explained
from lattice_lightning.pipeline.rows import merged
from lattice_lightning.samplers import HMC, Kernel, Level, SelfLearningHMC

__all__ = ["System", "build_kernel", "build_method", "build_system", "instantiate", "make_factory"]

#: configs inside checkpoints may name classes of these packages only, so that a file never runs
#: foreign code
TRUSTED = ("lattice_lightning.", "torch.optim.", "pytorch_lightning.")

Built = TypeVar("Built")


def instantiate(config: Mapping[str, Any], kind: type[Built], **context: Any) -> Built:
    """Make the ``_target_`` of a config from its entries and what its signature takes of context.

    Args:
        config: plain config with ``_target_``.
        kind: class that the target must derive from. A trusted module also holds what it imports
            (``lattice_lightning.cli.sys``) and what writes files; nothing of that is made.
        **context: arguments that the config does not hold.

    Raises:
        InputError: for a target outside ``TRUSTED`` or of another kind, or arguments that it does not
            have or take.
    """
    target = config.get("_target_") if isinstance(config, Mapping) else None
    if not isinstance(target, str) or not target.startswith(TRUSTED):
        raise InputError(
            f"_target_ must name something of {', '.join(t.rstrip('.') for t in TRUSTED)}, got {target!r} "
            f"in {config!r}"
        )
    module, _, name = target.rpartition(".")
    try:
        factory = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError):
        raise InputError(f"_target_ {target!r} does not exist") from None
    ours = isinstance(factory, type) and f"{factory.__module__}.".startswith(TRUSTED)
    if not ours or not issubclass(factory, kind):
        raise InputError(f"_target_ {target!r} is no {kind.__name__}, which is expected there")
    arguments = arguments_of(config)
    parameters = inspect.signature(factory).parameters
    for key in arguments:
        if key not in parameters:
            near = get_close_matches(key, list(parameters), n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise InputError(f"{name} has no argument {key!r}{hint} (has {', '.join(parameters)})")
    arguments.update({k: v for k, v in context.items() if k in parameters and k not in arguments})
    with explained(f"{name} cannot be made of {arguments_of(config)}"):
        return factory(**arguments)


def arguments_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Entries of a config without its target."""
    return {key: value for key, value in config.items() if key != "_target_"}


class System:
    """Lattice, space, target action, observables and starts of one config.

    Args:
        config: plain config with lattice, group, action, observables, integrator, start.
        device: device of the fields.
    """

    def __init__(self, config: Mapping[str, Any], device: torch.device | str = "cpu") -> None:
        self.config, self.device = config, torch.device(device)
        self.lattice = Lattice(config["lattice"])
        self.space: FieldSpace = from_name(config["group"])
        context = {"lattice": self.lattice, "group": self.space, "space": self.space}
        given = config.get("action") or {}
        terms = {n: instantiate(c, Action, **context) for n, c in given.items() if c}  # type: ignore[type-abstract]
        if not terms:
            raise InputError("the config has no action: choose one, as in action=wilson")
        self.target: Action = SumAction(terms) if len(terms) > 1 else next(iter(terms.values()))
        self.observables: list[Observable] = [
            instantiate(c, Observable, **context)  # type: ignore[type-abstract]
            for c in (config.get("observables") or {}).values()
            if c
        ]

    def start(self, n_chains: int, seed: int) -> Tensor:
        """Starting fields of all chains."""
        config = dict(self.config["start"])
        rng = torch.Generator(self.device)
        rng.manual_seed(seed)
        sectors = config.get("sectors")
        if config["kind"] != "file":
            return start_field(self.space, self.lattice, n_chains, rng, config["kind"], sectors)
        if not isinstance(self.space, Group):
            raise InputError(f"start=file reads gauge links, got a field of {self.space.name}")
        path = Path(config["path"])
        links = read_configuration(path, self.lattice.shape, self.space.n_colors).to(self.device)
        self.space.check_field(links, self.lattice)
        links = self.space.reunitarise(links)
        field = links.expand(n_chains, *links.shape[1:]).clone()
        return set_sectors(self.space, self.lattice, field, sectors) if sectors else field

    def integrator(self, row: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Keyword arguments of the kernels that integrate, with what a row changes in them."""
        config = merged(self.config["integrator"], (row or {}).get("integrator") or {})
        known = {"trajectory_length", "random_length", "levels"}
        if unknown := set(config) - known:
            raise InputError(f"integrator has no key {sorted(unknown)}; known: {sorted(known)}")
        with explained(f"the integrator cannot be made of {dict(config)}"):
            return {
                "trajectory_length": float(config["trajectory_length"]),
                "random_length": bool(config["random_length"]),
                "levels": [Level(**level) for level in config["levels"]],
            }

    def hmc(self, row: Mapping[str, Any] | None = None) -> HMC:
        """HMC of the target."""
        return HMC(self.target, **self.integrator(row))


def build_system(config: Mapping[str, Any], device: torch.device | str = "cpu") -> System:
    """Build and check the system of a config."""
    return System(config, device)


def make_factory(
    config: Mapping[str, Any] | None, kind: type, argument: str, **context: Any
) -> Callable[[Any], Any] | None:
    """A one-argument factory of a config (optimizers from parameters, schedules from optimizers)."""
    if config is None:
        return None
    return lambda first: instantiate(config, kind, **{argument: first}, **context)


def build_network(config: Mapping[str, Any], context: Mapping[str, Any]) -> LinkMap:
    """A link map, or a stack of those listed under ``layers``."""
    if isinstance(config, Mapping) and isinstance(config.get("layers"), list):
        config = {**config, "layers": [build_network(layer, context) for layer in config["layers"]]}
    return instantiate(config, LinkMap, **context)  # type: ignore[type-abstract]


def build_method(system: System, row: Mapping[str, Any], name: str) -> ActionRegression:
    """The LightningModule of a row that samples with an effective action."""
    if not isinstance(system.target, SumAction) or not isinstance(system.space, Group):
        raise InputError(
            f"row {name!r}: an effective action needs a target of one gauge action and one staggered "
            "fermion (action=staggered)"
        )
    if not isinstance(row.get("effective"), Mapping):
        raise InputError(f"row {name!r} needs `effective: {{masses: [...]}}`, got {row.get('effective')!r}")
    effective_config = dict(row["effective"])
    network_config = effective_config.pop("network", None)
    network = None
    if network_config:
        context = {"lattice": system.lattice, "group": system.space}
        network = build_network(network_config, context)
        if str((system.config.get("trainer") or {}).get("precision", "")).startswith("32"):
            network = network.float()
    known = {"masses", "loops", "tolerance_md", "polyakov", "learn_masses"}
    if unknown := set(effective_config) - known:
        raise InputError(f"row {name!r}: effective has no key {sorted(unknown)}, only {sorted(known)}")
    training = row["training"]
    with explained(f"row {name!r}, effective action of {effective_config}"):
        effective = EffectiveAction(
            system.target, network=network, min_mass=row.get("min_mass"), **effective_config
        )
        make_optimizer = make_factory(training["optimizer"], Optimizer, "params")
        make_scheduler = make_factory(training["scheduler"], LRScheduler, "optimizer")
        method = ActionRegression(
            effective,
            loss=training["loss"],
            linear="fixed" if row.get("train") is False else training["linear"],
            optimizer=make_optimizer,
            scheduler=make_scheduler,
            forgetting=training["forgetting"],
            ridge=training["ridge"],
            solver=training["solver"],
            weight_scale=training["weight_scale"],
            label=name,
        )
        try_factories(make_optimizer, make_scheduler)
    return method.to(system.device)


def try_factories(
    make_optimizer: Callable[[Any], Any] | None, make_scheduler: Callable[[Any], Any] | None
) -> None:
    """A wrong optimizer must not show itself after the stream, nor when the solver changes."""
    if make_optimizer is not None:
        optimizer = make_optimizer([torch.zeros(1, requires_grad=True)])
        if make_scheduler is not None:
            make_scheduler(optimizer)


def build_kernel(system: System, row: Mapping[str, Any], method: ActionRegression | None) -> Kernel:
    """The kernel that samples a row of HMC or self-learning HMC."""
    if row["sampler"] == "hmc":
        return system.hmc(row)
    assert method is not None
    options = system.integrator(row)
    levels = options["levels"]
    if len(levels) > 1 or levels[0].terms is not None:
        raise InputError(
            "an effective action is one term, so self-learning HMC takes one level without terms; "
            f"got {levels}"
        )
    return SelfLearningHMC(system.target, method.effective, **options)
