"""Training a flow on its own draws, by the reverse Kullback-Leibler divergence.

The loss is F = E_q[log q + S] = KL(q | p) - log Z >= -log Z, with three estimators of its gradient.
For x = x(z; theta) and f = log q + S:

(i)   ``reparametrised``: d/dtheta of mean f(x(z; theta); theta);
(ii)  ``path`` (1703.09194, flows: 2207.08219): only through x, weights in log q held fixed. The part
      left out has mean zero; without it the variance vanishes where q = p. Costs one inverse pass. For
      continuous flows it is as exact as that pass inverts the draw;
(iii) ``reinforce`` (2210.01710, S needs no derivative): mean of (f - b) d log q(x) / dtheta at fixed x,
      where the baseline b of each draw is the mean f of all others, on all ranks, hence unbiased.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lattice_lightning.actions import Action
from lattice_lightning.exceptions import InputError
from lattice_lightning.methods.accumulation import Term, accumulate
from lattice_lightning.methods.flow_method import (
    FlowMethod,
    OptimizerFactory,
    SchedulerFactory,
    gather_draws,
)
from lattice_lightning.methods.loss_options import Annealing, ForwardKL, from_options
from lattice_lightning.metrics import effective_sample_size, independence_acceptance
from lattice_lightning.models import FlowModel

__all__ = ["ReverseKL"]

ESTIMATORS = ("reparametrised", "path", "reinforce")
DTYPES = {"64": torch.float64, "32": torch.float32}
#: draws without a finite weight that are dropped without complaint, and their largest fraction beyond
DROPS_TOLERATED = 4
DROP_FRACTION = 0.01


class _Draw(NamedTuple):
    """Fields from the flow with the graph of all, and figures ``[2, n]`` without: energy + log q, log w.

    The energy is annealed, log w that of the target.
    """

    field: Tensor
    energy: Tensor
    log_q: Tensor
    figures: Tensor


class _LogProb(nn.Module):
    """log q as a module, for functional_call."""

    def __init__(self, model: FlowModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, field: Tensor) -> Tensor:
        return self.model.log_prob(field)


class ReverseKL(FlowMethod):
    """Reverse-KL training of a flow.

    Logs every step, over the draws of all ranks and for the target without annealing: ``loss`` (F),
    ``batch_var_log_w``, ``batch_ess`` and ``batch_acceptance``, which are biased up at the size of a
    batch (:class:`.ImportanceSampling` logs those to quote); ``annealing`` and ``forward_kl`` where
    used, ``dropped`` once a draw had no finite weight.

    Args:
        model: trained in place.
        target: bosonic action; needs ``energy``, with derivatives unless ``reinforce``.
        batch_size: draws a step on each rank.
        n_epochs: see :class:`.FlowMethod`, as all that is not listed here.
        steps_per_epoch: optimizer steps between checkpoints.
        optimizer: makes the optimizer.
        scheduler: makes the schedule, stepped every batch.
        estimator: ``reparametrised``, ``path`` or ``reinforce``.
        annealing: :class:`Annealing` or its arguments; None for the target from the start.
        forward_kl: :class:`ForwardKL` or its arguments; None for none.
        ema: decay of the averaged weights.
        precision: of the fields in training, ``"64"`` or ``"32"``; weights keep the dtype they were
            made with. Draws that are accepted on are always in double precision.
        gradient_clip: largest norm of the gradient.
        compile: compile the flow's forward in training; falls back with one warning. Deep flows take
            minutes to compile on a CPU: time both before a long run.
        micro_batches: parts that a batch is worked off in, same gradient, less memory.
        seed: of the draws.
        label: row name.

    Raises:
        InputError: for options that are unknown, out of range or contradict each other.

    Example:
        A flow of one coupling is 20 lines, see ``tests/tiny_flows.py``; its training is

        ``Trainer(max_epochs=method.n_epochs, inference_mode=False).fit(method)``
    """

    n_drawn: Tensor
    n_dropped: Tensor

    def __init__(
        self,
        model: FlowModel,
        target: Action,
        batch_size: int,
        n_epochs: int,
        steps_per_epoch: int,
        optimizer: OptimizerFactory,
        scheduler: SchedulerFactory | None = None,
        estimator: str = "reparametrised",
        annealing: Annealing | Mapping[str, Any] | None = None,
        forward_kl: ForwardKL | Mapping[str, Any] | None = None,
        ema: float | None = None,
        precision: str = "64",
        gradient_clip: float | None = None,
        compile: bool = False,
        micro_batches: int = 1,
        seed: int = 0,
        label: str = "",
    ) -> None:
        super().__init__(
            model, target, n_epochs, steps_per_epoch, optimizer, scheduler, ema, gradient_clip, seed, label
        )
        if estimator not in ESTIMATORS:
            raise InputError(f"unknown estimator {estimator!r}: expected one of {', '.join(ESTIMATORS)}")
        if str(precision) not in DTYPES:
            raise InputError(f"precision of the draws in training is 64 or 32, got {precision!r}")
        if batch_size < 2 or not 1 <= micro_batches <= batch_size:
            raise InputError(
                "expected batch_size >= 2 and 1 <= micro_batches <= batch_size, got "
                f"{batch_size}, {micro_batches}"
            )
        self.estimator, self.dtype_of_draws = estimator, DTYPES[str(precision)]
        self.batch_size, self.micro_batches = int(batch_size), int(micro_batches)
        self.annealing: Annealing | None = from_options(Annealing, annealing, "annealing")
        forward: ForwardKL | None = from_options(ForwardKL, forward_kl, "forward_kl")
        self.forward_weight = 0.0 if forward is None else forward.weight
        self.stored = None if forward is None else forward.joined()
        if self.stored is not None:
            model.space.check_field(self.stored, model.lattice)
        self.compile_it = bool(compile)
        self.prior_action = model.prior.action() if self.annealing and self.annealing.prior else None
        self.register_buffer("n_drawn", torch.zeros((), dtype=torch.int64))
        self.register_buffer("n_dropped", torch.zeros((), dtype=torch.int64))

    # -- loss ----------------------------------------------------------------------------------

    def factor(self, step: int) -> float:
        """Annealing factor of a step of the whole training."""
        return 1.0 if self.annealing is None else self.annealing.factor(step)

    def loss(self, rng: torch.Generator, step: int = 0) -> tuple[Tensor, dict[str, Tensor]]:
        """A scalar whose gradient is the estimator's, and what to log.

        Args:
            rng: draws of the step come from here, the same whatever the number of micro-batches.
            step: number of the step in the whole training, for annealing.

        Raises:
            InputError: when too many draws have no finite weight.
        """
        factor = self.factor(step)
        latent = self._in_precision(self.model.prior.sample(self.batch_size, rng))
        stored = None if self.stored is None else self._some_stored(rng)
        self.n_drawn += self.batch_size
        parts = latent.tensor_split(self.micro_batches)
        if self.estimator == "reinforce":
            loss, figures = self._score_loss(parts, factor)
        else:
            loss, figures = self._accumulate([self._pathwise_term(z, factor) for z in parts], latent)
            figures = gather_draws(figures, self.batch_size)
        logged = self._figures(figures[1])
        if self.annealing is not None:
            logged["annealing"] = torch.tensor(factor)
        if stored is not None:
            terms = [self._forward_term(x) for x in stored.tensor_split(self.micro_batches)]
            forward, _ = self._accumulate(terms, stored)
            logged["forward_kl"] = forward.detach()
            loss = loss + self.forward_weight * forward
        return loss, logged

    def _in_precision(self, field: Tensor) -> Tensor:
        if self.dtype_of_draws == torch.float32:
            return field.to(torch.complex64 if field.is_complex() else torch.float32)
        return field

    def _some_stored(self, rng: torch.Generator) -> Tensor:
        assert self.stored is not None
        index = torch.randint(len(self.stored), (self.batch_size,), generator=rng, device=rng.device)
        return self._in_precision(self.stored[index.to(self.stored.device)].to(rng.device))

    def _energy(self, field: Tensor, factor: float) -> tuple[Tensor, Tensor]:
        """Annealed action and the target's."""
        target = self.target.energy(field)
        annealed = target if factor == 1 else factor * target
        if self.prior_action is not None and factor < 1:
            annealed = annealed + (1 - factor) * self.prior_action.energy(field)
        return annealed, target

    def _draw(self, latent: Tensor, factor: float, eager: bool = False) -> _Draw:
        # forward itself is never compiled
        flow = self.model.flow.forward if eager else self.model.flow
        field, log_det = flow(latent)
        log_q = self.model.prior.log_prob(latent) - log_det
        energy, target = self._energy(field, factor)
        return _Draw(field, energy, log_q, torch.stack([energy + log_q, -target - log_q]).detach())

    def _usable_draw(self, latent: Tensor, factor: float) -> _Draw:
        """A draw without the fields that have no finite weight."""
        drawn = self._draw(latent, factor)
        usable = torch.isfinite(drawn.figures).all(0)
        if bool(usable.all()):
            return drawn
        del drawn
        self.n_dropped += int((~usable).sum())
        dropped, n = int(self.n_dropped), int(self.n_drawn)
        if not bool(usable.any()) or (dropped > DROPS_TOLERATED and dropped > DROP_FRACTION * n):
            raise InputError(
                f"{self.where()}: {int((~usable).sum())} of {len(usable)} draws have an action or log q "
                f"that is not finite, {dropped} of {n} so far; lower the learning rate, clip the gradient "
                "(gradient_clip) or start with a smaller coupling (annealing)"
            )
        # left in the batch they would make every gradient nan, times zero or not
        return self._draw(latent[usable], factor, eager=True)

    def _pathwise_term(self, latent: Tensor, factor: float) -> Term:
        def term() -> tuple[Tensor, Tensor]:
            draw = self._usable_draw(latent, factor)
            log_q = draw.log_q
            if self.estimator == "path":
                weights = {f"model.{name}": p.detach() for name, p in self.model.named_parameters()}
                log_q = torch.func.functional_call(_LogProb(self.model), weights, (draw.field,))
            return draw.energy + log_q, draw.figures

        return term

    def _score_loss(self, parts: Sequence[Tensor], factor: float) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            drawn = [self._usable_draw(z, factor) for z in parts]
        field, values = torch.cat([d.field for d in drawn]), torch.cat([d.energy + d.log_q for d in drawn])
        figures = gather_draws(torch.cat([d.figures for d in drawn], 1), self.batch_size)
        n = figures.shape[1]
        # f minus the mean of all others
        advantage = ((values - figures[0].mean()) * n / (n - 1)).to(values.dtype)

        def score(field: Tensor, advantage: Tensor) -> Term:
            return lambda: (advantage * self.model.log_prob(field), advantage[None])

        chunks = zip(
            field.tensor_split(self.micro_batches), advantage.tensor_split(self.micro_batches), strict=True
        )
        loss, _ = self._accumulate([score(x, a) for x, a in chunks], field)
        # its own value says nothing: show log q + S
        return loss + (values.mean() - loss).detach(), figures

    def _forward_term(self, field: Tensor) -> Term:
        def term() -> tuple[Tensor, Tensor]:
            value = -self.model.log_prob(field)
            return value, value.detach()[None]

        return term

    def _accumulate(self, terms: Sequence[Term], shared: Tensor) -> tuple[Tensor, Tensor]:
        # a prior with weights is part of every term's graph
        return accumulate(terms, list(self.model.parameters()), keep_graph=shared.requires_grad)

    @staticmethod
    def _figures(log_w: Tensor) -> dict[str, Tensor]:
        return {
            "loss": -log_w.mean(),
            "batch_var_log_w": log_w.var(),
            "batch_ess": effective_sample_size(log_w),
            "batch_acceptance": independence_acceptance(log_w),
        }

    # -- Lightning -----------------------------------------------------------------------------

    def on_fit_start(self) -> None:
        """Compile where asked to."""
        if self.compile_it:
            n = -(-self.batch_size // self.micro_batches)

            def trial() -> Tensor:
                latent = self.model.prior.sample(n, self.generator(-1))
                return self._draw(self._in_precision(latent), 1.0)[1].mean()

            self.compile_flow(trial)

    def training_step(self, batch: int, batch_idx: int) -> Tensor:
        """Loss of one batch of draws."""
        step = self.step_number(batch)
        loss, logged = self.loss(self.generator(step), step)
        if not bool(torch.isfinite(loss)):
            raise InputError(f"the loss of {self.where()} is {float(loss)}: lower the learning rate")
        if int(self.n_dropped):
            logged["dropped"] = self.n_dropped.double()
        metrics = {f"{self.label}{name}": value for name, value in logged.items()}
        self.log_dict(metrics, on_step=True, on_epoch=False, batch_size=1)
        return loss
