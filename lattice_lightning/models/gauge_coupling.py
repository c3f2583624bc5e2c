"""Gauge-equivariant couplings of U(1) in two dimensions (2003.06413; 2101.08176, section 5).

An active plaquette angle w = theta_mu(n) + theta_nu(n+mu) - theta_mu(n+nu) - theta_nu(n) goes to
w' = f(w | loops that the moved links are not in), and its link moves by w' - w. The loops are gauge
invariant, so the map is gauge covariant; log |det| is the sum of log dw'/dw over active plaquettes.
"""

from collections.abc import Sequence
from math import log, pi

import torch
from torch import Tensor

from lattice_lightning.exceptions import InputError
from lattice_lightning.groups import FieldSpace
from lattice_lightning.lattice import Lattice
from lattice_lightning.models.flow import FlowStack
from lattice_lightning.models.gauge_masks import GaugeStripes, gauge_stripes
from lattice_lightning.models.splines import circular_rational_quadratic
from lattice_lightning.models.stripe_coupling import StripeCoupling

__all__ = ["PlaquetteCoupling", "U1Flow", "tan_mixture"]


def _wrap(angle: Tensor) -> Tensor:
    return pi - torch.remainder(pi - angle, 2 * pi)


def tan_mixture(x: Tensor, s: Tensor, inverse: bool = False) -> tuple[Tensor, Tensor]:
    """Mean of 2 arctan(e^s tan(x/2)) over components: a map of the circle with fixed points 0, +-pi.

    The non-compact projection of 2002.02428, section 2.2; the inverse, which has no closed form, by
    bisection and Newton's method to rounding, with the gradient of the implicit function.

    Args:
        x: angles in [-pi, pi], ``[...]``.
        s: logarithmic scales, ``[..., n_mixture]``.
        inverse: map back instead.

    Returns:
        The image in [-pi, pi] and the logarithm of the derivative of the map that was asked for.

    Example:
        >>> x = torch.tensor([1.0, -2.0], dtype=torch.float64)
        >>> y, log_derivative = tan_mixture(x, torch.ones(2, 3, dtype=torch.float64))
        >>> torch.allclose(tan_mixture(y, torch.ones(2, 3, dtype=torch.float64), inverse=True)[0], x)
        True
    """
    if not inverse:
        return _tan_mixture(x, s)
    with torch.no_grad():
        low, high = torch.full_like(x, -pi), torch.full_like(x, pi)
        for _ in range(12):
            middle = 0.5 * (low + high)
            below = _tan_mixture(middle, s)[0] < x
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        root = 0.5 * (low + high)
        for _ in range(40):
            value, log_derivative = _tan_mixture(root, s)
            below = value < x
            low, high = torch.where(below, root, low), torch.where(below, high, root)
            newton = root - (value - x) * torch.exp(-log_derivative)
            # a step out of the bracket is halved instead
            safe = (newton > low) & (newton < high)
            step = torch.where(safe, newton, 0.5 * (low + high))
            if bool(((step - root).abs() <= 4 * torch.finfo(x.dtype).eps).all()):
                break
            root = step
    # one more step carries the graph: d root = (dx - df) / f'
    value, log_derivative = _tan_mixture(root, s)
    root = root - (value - x) * torch.exp(-log_derivative.detach())
    return root, -_tan_mixture(root, s)[1]


def _tan_mixture(x: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    half = x.unsqueeze(-1) / 2
    cos, sin = half.cos(), half.sin()
    # arctan2 stays smooth at pi, where the tangent has its pole
    image = 2 * torch.atan2(torch.exp(s) * sin, cos)
    log_derivative = -torch.log(torch.exp(-s) * cos.square() + torch.exp(s) * sin.square())
    return image.mean(-1), torch.logsumexp(log_derivative, -1) - log(s.shape[-1])


class PlaquetteCoupling(StripeCoupling):
    """One coupling of U(1): a circle map of active plaquettes, steered by frozen loops.

    Symmetries: gauge transformations, translations along the stripes, and by 4 across.

    Args:
        lattice: two dimensions, a multiple of 4 across the stripes.
        group: U(1).
        mu: direction of the links that move.
        offset: of the stripes, 0 to 3.
        transform: ``mixture`` (tangent maps and a shift, the tutorial's) or ``spline`` (circular
            rational-quadratic and a shift).
        rectangles: let the network see 1x2 loops too: across the stripes those of two frozen plaquettes
            and those of an active and a passive one (their common link drops out), along the stripes
            those of two frozen ones. The tutorial sees plaquettes only.
        hidden: hidden channels of the network.
        kernel_size: odd extent of its kernels.
        n_mixture: tangent maps of the mixture.
        bins: bins of the spline.
        init_scale: factor on its last layer's initial weights; at 0 the coupling is the identity.
        dtype: of its weights; the field keeps its own.
        rng: generator of its initial weights.

    Raises:
        InputError: for another group, lattice or transform.
    """

    symmetries: tuple[str, ...] = ("gauge", "mask_translations")

    def __init__(
        self,
        lattice: Lattice,
        group: FieldSpace,
        mu: int,
        offset: int,
        transform: str = "spline",
        rectangles: bool = False,
        hidden: Sequence[int] = (8, 8),
        kernel_size: int = 3,
        n_mixture: int = 2,
        bins: int = 8,
        init_scale: float = 0.0,
        dtype: torch.dtype = torch.float32,
        rng: torch.Generator | None = None,
    ) -> None:
        if group.name != "U(1)":
            raise InputError(f"plaquette couplings are for U(1), got {group.name}")
        if transform not in ("mixture", "spline"):
            raise InputError(f"a plaquette's map is mixture or spline, got {transform!r}")
        if n_mixture < 1:
            raise InputError(f"a mixture needs at least one component, got {n_mixture}")
        channels = (6 if rectangles else 2, n_mixture + 1 if transform == "mixture" else 3 * bins + 1)
        super().__init__(
            lattice, group, GaugeStripes(mu, offset), channels, hidden, kernel_size, init_scale, dtype, rng
        )
        self.transform, self.rectangles, self.bins = transform, rectangles, bins

    def apply_map(self, field: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        """Move the links of the stripes by the change of their plaquettes."""
        mu, nu, lattice = self.mask.mu, self.mask.nu, self.lattice
        along, across = field[:, mu], field[:, nu]
        w = along + lattice.shift(across, mu) - lattice.shift(along, nu) - across
        if mu == 1:
            w = w.transpose(1, 2)
        parameters = self.net(self._features(w))
        rows = self.mask.rows(lattice, 0, field.device)
        angle = _wrap(w.index_select(2, rows))
        new, log_derivative = self._map(angle, parameters.index_select(3, rows).movedim(1, -1), inverse)
        change = new - angle
        if mu == 1:
            change = change.transpose(1, 2)
        moved = along.index_add(1 + nu, rows, change)
        moved = moved.index_copy(1 + nu, rows, _wrap(moved.index_select(1 + nu, rows)))
        links = (moved, across) if mu == 0 else (across, moved)
        return torch.stack(links, 1), log_derivative.flatten(1).sum(1)

    def _features(self, w: Tensor) -> Tensor:
        """cos and sin of the loops that do not contain a moved link, zero where there is none."""
        frozen = self.mask.indicator(self.lattice, (1, 2), w)
        loops = [torch.stack([w.cos(), w.sin()], 1) * frozen]
        if self.rectangles:
            # the kind of its lower plaquette: frozen with frozen, passive with active
            whole = self.mask.indicator(self.lattice, (1, 3), w)
            for loop, where in ((w + w.roll(-1, 2), whole), (w + w.roll(-1, 1), frozen)):
                loops.append(torch.stack([loop.cos(), loop.sin()], 1) * where)
        return torch.cat(loops, 1)

    def _map(self, angle: Tensor, parameters: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        raw, shift = parameters[..., :-1], parameters[..., -1]
        angle = _wrap(angle - shift) if inverse else angle
        if self.transform == "mixture":
            new, log_derivative = tan_mixture(angle, raw, inverse)
        else:
            widths, heights, slopes = raw.split(self.bins, dim=-1)
            new, log_derivative = circular_rational_quadratic(angle, widths, heights, slopes, inverse)
        return new if inverse else new + shift, log_derivative


class U1Flow(FlowStack):
    """Plaquette couplings in both directions; the defaults are the U(1) flow of the tutorial 2101.08176.

    Args:
        lattice: two dimensions, multiples of 4.
        group: U(1).
        n_layers: number of couplings; 8 move every link once.
        hidden: hidden channels of the networks.
        kernel_size: odd extent of their kernels.
        transform: ``mixture`` or ``spline``.
        rectangles: let the networks see 1x2 loops.
        n_mixture: tangent maps of a mixture.
        bins: bins of a spline.
        init_scale: factor on the networks' last layers; 0 starts at the identity, 1 as the tutorial.
        rng: generator of the initial weights; None for torch's default one.

    Raises:
        InputError: for another group or lattice, or fewer than one layer.

    Example:
        >>> from lattice_lightning.groups import U1
        >>> U1Flow(Lattice((8, 8)), U1()).n_parameters
        15280
    """

    symmetries: tuple[str, ...] = ("gauge", "mask_translations")

    def __init__(
        self,
        lattice: Lattice,
        group: FieldSpace,
        n_layers: int = 16,
        hidden: Sequence[int] = (8, 8),
        kernel_size: int = 3,
        transform: str = "mixture",
        rectangles: bool = False,
        n_mixture: int = 2,
        bins: int = 8,
        init_scale: float = 1.0,
        rng: torch.Generator | None = None,
    ) -> None:
        super().__init__(
            [
                PlaquetteCoupling(
                    lattice, group, mask.mu, mask.offset, transform, rectangles, hidden, kernel_size,
                    n_mixture, bins, init_scale, rng=rng,
                )
                for mask in gauge_stripes(n_layers)
            ]
        )
