"""Velocities small enough to test integrators and fits with."""

import torch

from lattice_lightning.actions import WilsonGauge
from lattice_lightning.models import VelocityBasis


class WilsonGradient(VelocityBasis):
    """b = -dS/dw of the Wilson action at beta = 1, whose divergence is known."""

    n_features = 1

    def velocity(self, internal, theta):
        links = self.finish(internal)
        action = WilsonGauge(self.lattice, self.space, 1.0)
        force = self.pack_force(action.force(links, {}))
        # Laplacian of Re tr P / N on SU(2): four links, each with T_a T_a = 3/4
        divergence = -3 * (self.lattice.n_planes * self.lattice.volume - action.value(links, {}))
        return -theta * force, theta * divergence

    def design(self, internal, force):
        b, divergence = self.velocity(internal, torch.ones(1, dtype=torch.float64))
        return (divergence - (b * force).flatten(0, -2).sum(0)).unsqueeze(1)
