"""Flows small enough to integrate over, or to train within a second."""

import torch
from torch import nn

from lattice_lightning.actions import Phi4
from lattice_lightning.groups import RealLine
from lattice_lightning.lattice import Lattice
from lattice_lightning.models import Flow, FlowModel, FlowStack, GaussianPrior


class Scale(Flow):
    """x = exp(s) z + m at every site, two weights."""

    def __init__(self, lattice, scale=0.0, shift=0.0):
        super().__init__(lattice, RealLine())
        self.scale = nn.Parameter(torch.tensor(scale, dtype=torch.float64))
        self.shift = nn.Parameter(torch.tensor(shift, dtype=torch.float64))

    def forward(self, field):
        log_det = (self.scale * self.lattice.volume).expand(len(field))
        return field * self.scale.exp().to(field) + self.shift.to(field), log_det.to(field)

    def inverse(self, field):
        log_det = (-self.scale * self.lattice.volume).expand(len(field))
        return (field - self.shift.to(field)) * (-self.scale).exp().to(field), log_det.to(field)


class Coupling(Flow):
    """x = z exp(s) + t on sites of one parity, s and t from a network on the others."""

    def __init__(self, lattice, parity, hidden=8, seed=0):
        super().__init__(lattice, RealLine())
        self.parity = parity
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.net = nn.Sequential(
                nn.Conv2d(1, hidden, 3, padding=1, padding_mode="circular"), nn.LeakyReLU(0.1),
                nn.Conv2d(hidden, 2, 3, padding=1, padding_mode="circular"),
            )

    def scale_and_shift(self, field):
        active = (self.lattice.parity(field.device) == self.parity).to(field)
        frozen = (field * (1 - active)).unsqueeze(1)
        scale, shift = self.net(frozen.to(self.net[0].weight)).to(field).unbind(1)
        return torch.tanh(scale) * active, shift * active

    def forward(self, field):
        scale, shift = self.scale_and_shift(field)
        return field * scale.exp() + shift, scale.flatten(1).sum(1)

    def inverse(self, field):
        scale, shift = self.scale_and_shift(field)
        return (field - shift) * (-scale).exp(), -scale.flatten(1).sum(1)


class Bend(Flow):
    """A coupling with three weights on a 2 x 2 lattice, smooth enough for quadrature."""

    def __init__(self, lattice, parity, weights=(0.3, 0.4, 0.2)):
        super().__init__(lattice, RealLine())
        self.parity = parity
        self.weights = nn.Parameter(torch.tensor(weights, dtype=torch.float64))

    def scale_and_shift(self, field):
        active = (self.lattice.parity(field.device) == self.parity).to(field)
        a, b, c = self.weights.to(field)
        mean = 0.5 * (field * (1 - active)).flatten(1).sum(1)[:, None, None]
        return a * torch.tanh(b * mean) * active, c * mean * active

    forward, inverse = Coupling.forward, Coupling.inverse


def bent(shape=(2, 2)):
    """Two couplings, scale and shift: eight weights."""
    lattice = Lattice(shape)
    layers = [Bend(lattice, 0), Bend(lattice, 1, (-0.3, 0.5, 0.1)), Scale(lattice, -0.2, 0.1)]
    return FlowModel(GaussianPrior(lattice), FlowStack(layers))


def couplings(shape=(4, 4), n=4, hidden=8):
    """Affine couplings of alternating parity, networks in single precision."""
    lattice = Lattice(shape)
    layers = [Coupling(lattice, k % 2, hidden, seed=k) for k in range(n)]
    return FlowModel(GaussianPrior(lattice), FlowStack(layers))


def phi4(shape=(4, 4), m2=1.0, lam=1.0):
    """phi^4 in the symmetric phase."""
    return Phi4(Lattice(shape), m2, lam)
