"""Recursive Gauss-Newton for the pair loss, one batch of trajectories at a time.

The pair loss is a sum of squares of residuals r = dS - dS_theta, one a chain, and effective actions
have few parameters. With J = d(dS_theta)/d theta of every chain, the update

    A <- f A + sum over chains J J^T,    theta <- theta + (A + P)^-1 sum over chains J r

(the extended Kalman filter's; f the forgetting, P a prior) uses each trajectory as well as a least
squares fit would. Stochastic gradients do not: the weights that matter are about 0.01, and at the
learning rates that find them in a hundred steps the noise of 16 chains is larger.

J needs one backward pass: every chain is given its own copy of the weights, along the chain axis.
"""

import torch
from torch import Tensor
from torch.func import functional_call

from lattice_lightning.actions import Aux
from lattice_lightning.exceptions import InputError, LatticeLightningError
from lattice_lightning.models import EffectiveAction
from lattice_lightning.parallel import sum_over_ranks

__all__ = ["RecursiveLeastSquares", "pair_jacobian"]


def pair_jacobian(
    effective: EffectiveAction, start: Tensor, end: Tensor, aux: Aux
) -> tuple[Tensor, Tensor]:
    """Change of S_theta along each trajectory, ``[batch]``, and its derivatives ``[parameters, batch]``.

    Parameters are ordered as ``effective.parameters()``: linear coefficients first.

    Raises:
        InputError: when a network cannot take a copy of its weights for each chain.

    Example:
        >>> from lattice_lightning.actions import StaggeredFermion, WilsonGauge
        >>> from lattice_lightning.groups import SU2
        >>> from lattice_lightning.lattice import Lattice
        >>> from lattice_lightning.models import CovNet
        >>> lattice, group = Lattice((4, 4)), SU2()
        >>> target = WilsonGauge(lattice, group, 2.0) + StaggeredFermion(lattice, group, mass=0.3)
        >>> effective = EffectiveAction(target, masses=[0.6], network=CovNet(lattice, group))
        >>> rng = torch.Generator().manual_seed(1)
        >>> start, end = group.hot(lattice, 5, rng), group.hot(lattice, 5, rng)
        >>> change, jacobian = pair_jacobian(effective, start, end, target.refresh(start, rng)[0])
        >>> change.shape, jacobian.shape
        (torch.Size([5]), torch.Size([8, 5]))
    """
    n = start.shape[0]
    copies = {
        name: parameter.detach().unsqueeze(-1).expand(*parameter.shape, n).clone().requires_grad_()
        for name, parameter in effective.named_parameters()
        if name != "coefficients"
    }
    doubled = {name: torch.cat([copy, copy], -1) for name, copy in copies.items()}
    links = effective.space.pack(torch.cat([start, end]))
    both = {name: torch.cat([tensor, tensor]) for name, tensor in aux.items()}
    with torch.enable_grad():
        try:
            values = functional_call(effective, doubled, (links, both))
        except (LatticeLightningError, torch.OutOfMemoryError):
            raise
        except RuntimeError as error:
            raise InputError(
                f"{type(effective.network).__name__} cannot take weights with a last axis of chains "
                f"({str(error).splitlines()[0]}); train it with solver=gradient"
            ) from error
        features = values[:, n:] - values[:, :n]
        change = effective.coefficients.detach() @ features
        gradients = torch.autograd.grad(change.sum(), list(copies.values())) if copies else ()
    rows = [features.detach(), *(gradient.reshape(-1, n) for gradient in gradients)]
    return change.detach(), torch.cat(rows)


class RecursiveLeastSquares:
    """The update of the parameters; its state is the matrix A, kept by the caller.

    Args:
        scales: expected size of each parameter's change; infinite for no prior, zero for a fixed one.
        forgetting: weight of older batches at each new one, in (0, 1].
        ridge: relative ridge on A.
    """

    def __init__(self, scales: Tensor, forgetting: float, ridge: float) -> None:
        self.scales, self.forgetting, self.ridge = scales, forgetting, ridge

    def step(self, normal: Tensor, jacobian: Tensor, residual: Tensor) -> Tensor:
        """Update the matrix A in place; returns the change of the parameters.

        Changes are bounded by the scales, since J is good for so much of a nonlinear model. With
        several processes all see the joint batch.

        Args:
            normal: the matrix A, ``[parameters, parameters]``.
            jacobian: ``[parameters, batch]``.
            residual: ``[batch]``.
        """
        square, moment = jacobian @ jacobian.T, jacobian @ residual
        noise = torch.stack([residual.square().sum(), residual.new_tensor(float(residual.numel()))])
        sum_over_ranks(square, moment, noise)
        normal.mul_(self.forgetting).add_(square)
        scales = self.scales.to(normal)
        free = scales > 0
        prior = noise[0] / noise[1].clamp_min(1) / scales[free].square()
        block = normal[free][:, free]
        total = block + torch.diag(prior + self.ridge * block.diagonal() + 1e-300)
        # solved in scaled variables: the terms of an action differ by orders of magnitude
        size = total.diagonal().rsqrt()
        scaled, wanted = size[:, None] * total * size[None, :], size * moment[free]
        step = size * torch.linalg.solve(scaled, wanted)
        bounded = torch.minimum(torch.maximum(step, -scales[free]), scales[free])
        inside = bounded == step
        if not bool(inside.all()):
            # the others follow the bounded ones, as if these had been given
            given = wanted - scaled @ torch.where(inside, 0.0, bounded / size)
            step[inside] = size[inside] * torch.linalg.solve(scaled[inside][:, inside], given[inside])
            step[~inside] = bounded[~inside]
            step = torch.minimum(torch.maximum(step, -scales[free]), scales[free])
        delta = torch.zeros_like(moment)
        delta[free] = step
        return delta
