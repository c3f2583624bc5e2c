"""Small nonlinear flows with known log-determinants, and a scalar theory integrated numerically."""

from functools import cache
from math import log

import torch

from lattice_lightning.actions import Phi4, WilsonGauge
from lattice_lightning.groups import SU2, U1, RealLine
from lattice_lightning.lattice import Lattice
from lattice_lightning.models import FlowModel, GaussianPrior, HaarPrior
from lattice_lightning.models.flow import Flow

LATTICE = Lattice((2, 2))


class ScalarFlow(Flow):
    """sinh at every site, then an affine map of the odd sites given the even ones."""

    bend, scale = 0.4, 0.45

    def __init__(self):
        super().__init__(LATTICE, RealLine())

    def _affine(self, field):
        odd = self.lattice.parity().to(field)
        even = field * (1 - odd)
        near = sum(self.lattice.shift(even, mu) for mu in (0, 1)) * odd
        return odd * 0.3 * torch.tanh(near), 0.3 * near

    def forward(self, field):
        y = torch.sinh(self.bend * field) / self.bend * self.scale
        log_det = (torch.cosh(self.bend * field).log() + log(self.scale)).flatten(1).sum(1)
        log_scale, move = self._affine(y)
        return y * log_scale.exp() + move, log_det + log_scale.flatten(1).sum(1)

    def inverse(self, field):
        log_scale, move = self._affine(field)
        z = torch.asinh((field - move) * (-log_scale).exp() * self.bend / self.scale) / self.bend
        return z, -self.forward(z)[1]


class AngleFlow(Flow):
    """theta + a sin theta on every link: a periodic map that is one-to-one."""

    bend = -0.3

    def __init__(self, lattice=LATTICE):
        super().__init__(lattice, U1())

    def forward(self, field):
        log_det = (1 + self.bend * field.cos()).log().flatten(1).sum(1)
        return field + self.bend * field.sin(), log_det

    def inverse(self, field):
        z = field
        for _ in range(60):
            z = z - (z + self.bend * z.sin() - field) / (1 + self.bend * z.cos())
        return z, -self.forward(z)[1]


class QuaternionFlow(Flow):
    """exp(i alpha n.sigma) to alpha + a sin(2 alpha) / 2 with the same n, on every link."""

    bend = -0.4

    def __init__(self):
        super().__init__(LATTICE, SU2())

    def _move(self, field, g):
        q = self.space.pack(field)
        # the identity has no axis
        alpha = torch.acos(q[0].clamp(-1 + 1e-14, 1 - 1e-14))
        new = g(alpha)
        moved = torch.cat([new.cos().unsqueeze(0), new.sin() / alpha.sin() * q[1:]])
        return self.space.unpack(moved), alpha, new

    def forward(self, field):
        x, alpha, new = self._move(field, lambda a: a + 0.5 * self.bend * (2 * a).sin())
        log_det = 2 * (new.sin() / alpha.sin()).log() + (1 + self.bend * (2 * alpha).cos()).log()
        return x, log_det.flatten(0, -2).sum(0)

    def inverse(self, field):
        def solve(target):
            a = target
            for _ in range(60):
                a = a - (a + 0.5 * self.bend * (2 * a).sin() - target) / (1 + self.bend * (2 * a).cos())
            return a

        z, _, _ = self._move(field, solve)
        return z, -self.forward(z)[1]


def without_log_det(kind):
    """The flow with its log-determinant dropped."""

    class Dropped(kind):
        def forward(self, field):
            x, log_det = super().forward(field)
            return x, torch.zeros_like(log_det)

    return Dropped()


def scalar_target():
    """phi^4 on 2x2, strongly coupled."""
    return Phi4(LATTICE, m2=0.0, lam=0.5)


def angle_target(beta=1.0, lattice=LATTICE):
    """U(1) on a small torus."""
    return WilsonGauge(lattice, U1(), beta)


def scalar_model(flow=None):
    """The scalar flow on unit Gaussians."""
    return FlowModel(GaussianPrior(LATTICE), flow or ScalarFlow())


def angle_model(flow=None):
    """The angle flow on Haar-distributed links."""
    flow = flow or AngleFlow()
    return FlowModel(HaarPrior(flow.lattice, U1()), flow)


@cache
def scalar_truth():
    """log Z, <phi^2> and V <M^2> of the scalar target, by the trapezoidal rule in four dimensions."""
    x = torch.linspace(-3.2, 3.2, 27, dtype=torch.float64)
    points = torch.cartesian_prod(x, x, x, x).reshape(-1, 2, 2)
    log_p = -scalar_target().value(points, {})
    log_z = torch.logsumexp(log_p, 0) + 4 * (x[1] - x[0]).log()
    p = torch.softmax(log_p, 0)
    return float(log_z), *(float((p * f).sum()) for f in scalar_moments(points))


def scalar_moments(field):
    """phi^2 and V M^2 for each chain."""
    flat = field.flatten(1)
    return flat.square().mean(1), 4 * flat.mean(1).square()


def plaquette(target):
    """The mean plaquette of each chain of a two-dimensional Wilson theory."""
    return lambda field: (1 - target.value(field, {}) / (target.beta * target.lattice.volume),)


def pulls(kernel, start, measure, exact, n_steps=60, seed=5):
    """(mean - exact) / error over independent chains, the first third of the steps left out."""
    rng = torch.Generator().manual_seed(seed)
    state = kernel.init(start, rng)
    values, accepted = [], []
    for n in range(n_steps):
        state, info = kernel.step(rng, state)
        accepted.append(info.accepted.double().mean())
        if n >= n_steps // 3:
            values.append(torch.stack(measure(state.field)))
    chains = torch.stack(values).mean(0)
    error = chains.std(1) / chains.shape[1] ** 0.5
    pull = (chains.mean(1) - torch.tensor(exact, dtype=torch.float64)) / error
    print(kernel.name, "pulls", pull.tolist(), "acceptance", float(torch.stack(accepted).mean()))
    return pull
