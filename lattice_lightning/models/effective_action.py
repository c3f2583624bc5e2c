"""Effective actions for self-learning HMC: linear coefficients, heavier masses, network.

S_theta[U, phi] = c_0 S_g[U] + sum_k c_k S_f[phi, U_NN; m_k] + sum_l d_l W_l[U] + sum_p e_p P_p[U],
all m_k >= m_h.

S_f is the target's pseudofermion action at heavier masses, with the target's phi; U_NN the output of
a covariant network (2103.11965, 2501.16955), or U itself. One multi-shift solve at the lightest mass
serves all. W_l is minus the sum of Re tr of an r x s Wilson loop over N, P_p minus that of the straight
loops around space or around time: on a small lattice the determinant feels these as well.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lattice_lightning.actions import Aux, GaugeAction, StaggeredFermion, SumAction
from lattice_lightning.actions.staggered import IterationCounter, pseudofermion_values
from lattice_lightning.exceptions import InputError
from lattice_lightning.gauge import straight_loop, wilson_loops
from lattice_lightning.models.link_map import LinkMap

__all__ = ["EffectiveAction"]


class EffectiveAction(nn.Module, GaugeAction):
    """A trainable action that takes the target's links and pseudofermions.

    The parameter ``coefficients`` holds (c_0, c_1 ... c_K, d_1 ... d_L, e_s, e_t); it starts at
    c_0 = 1, c_1 = 1, zero elsewhere.

    Args:
        target: sum of one gauge action and one staggered fermion.
        masses: masses of the fermion terms, none below ``min_mass``.
        min_mass: m_h. No Dirac operator of the effective action may be lighter: with it free the
            optimum is the target's own mass and nothing is learned.
        network: covariant map of the links that the Dirac operators see.
        loops: sizes (r, s) of further Wilson loops of the bare links.
        tolerance_md: relative residual in molecular dynamics and training.
        polyakov: straight loops around space and around time of the bare links, once each.
        learn_masses: train the masses too; they start at ``masses`` and may leave the bound of
            ``min_mass``, so that such an action is a comparison, not a result.

    Raises:
        InputError: for a target of another form, masses below ``min_mass``, or a network on other links.

    Example:
        >>> from lattice_lightning.actions import WilsonGauge
        >>> from lattice_lightning.groups import SU2
        >>> from lattice_lightning.lattice import Lattice
        >>> lattice, group = Lattice((4, 4)), SU2()
        >>> target = SumAction({"gauge": WilsonGauge(lattice, group, 2.0),
        ...                     "fermion": StaggeredFermion(lattice, group, mass=0.3)})
        >>> effective = EffectiveAction(target, masses=[0.4, 0.8], min_mass=0.4)
        >>> effective.coefficients
        Parameter containing:
        tensor([1., 1., 0.], dtype=torch.float64, requires_grad=True)
    """

    def __init__(
        self,
        target: SumAction,
        masses: Sequence[float],
        min_mass: float | None = None,
        network: LinkMap | None = None,
        loops: Sequence[Sequence[int]] = (),
        tolerance_md: float | None = None,
        polyakov: bool = False,
        learn_masses: bool = False,
    ) -> None:
        super().__init__()
        fermions = [t for t in target.parts().values() if isinstance(t, StaggeredFermion)]
        gauge = [
            t
            for t in target.parts().values()
            if isinstance(t, GaugeAction) and not isinstance(t, StaggeredFermion)
        ]
        if len(fermions) != 1 or len(gauge) != 1 or len(target.parts()) != 2:
            raise InputError(
                "an effective action needs a target of one gauge action and one staggered fermion, "
                f"got the terms {[type(t).__name__ for t in target.parts().values()]}"
            )
        if not masses:
            raise InputError("an effective action needs at least one fermion mass, got none")
        least = min(masses) if min_mass is None else min_mass
        if least <= 0 or min(masses) < least:
            raise InputError(
                f"the masses {list(masses)} of the effective action must be positive and at least "
                f"min_mass={least}: a lighter one would copy the target instead of learning it"
            )
        if network is not None and (
            network.lattice != target.lattice or network.group.name != target.space.name
        ):
            raise InputError(
                f"the network maps {network.group.name} links on {network.lattice.shape}, the target has "
                f"{target.space.name} on {target.lattice.shape}; build both from one lattice and group"
            )
        GaugeAction.__init__(self, target.lattice, target.space)
        self.gauge, self.fermion = gauge[0], fermions[0]
        self.masses = [float(m) for m in masses]
        self.network = network
        self.loops, self.polyakov = [(int(r), int(s)) for r, s in loops], polyakov
        self.tolerance_md = tolerance_md or self.fermion.tolerances["md"]
        self.counter = IterationCounter()
        start = torch.zeros(len(self.term_names), dtype=torch.float64)
        start[:2] = 1
        self.coefficients = nn.Parameter(start)
        self.mass_weights = (
            nn.Parameter(torch.tensor(self.masses, dtype=torch.float64)) if learn_masses else None
        )

    @property
    def term_names(self) -> list[str]:
        """One name for each coefficient."""
        return [
            "gauge",
            *[f"fermion_m{m:g}" for m in self.masses],
            *[f"loop_{r}x{s}" for r, s in self.loops],
            *(["polyakov_space", "polyakov_time"] if self.polyakov else []),
        ]

    def term_values(
        self, links: Tensor, aux: Aux, *, strict: bool = True, tolerance: float | None = None,
        purpose: str = "md",
    ) -> Tensor:
        """Every term without its coefficient, ``[terms, batch]``, from packed links."""
        if self.fermion.name not in aux:
            raise InputError(
                f"the effective action needs the target's pseudofermions {self.fermion.name!r} in aux, "
                f"which has {sorted(aux)}; draw them with the target's refresh()"
            )
        bare = self.gauge.packed_value(links, aux, tolerance="md", strict=strict)
        smeared = links if self.network is None else self._smear(self.network, links)
        fermion = pseudofermion_values(
            self.fermion.operator,
            smeared,
            aux[self.fermion.name],
            self.masses if self.mass_weights is None else list(self.mass_weights.unbind()),
            tolerance or self.tolerance_md,
            self.fermion.max_iterations,
            self.counter,
            purpose,
            strict,
            f"effective action, masses {self.masses}",
        )
        terms = [bare.unsqueeze(0), fermion]
        for r, s in self.loops:
            loops = wilson_loops(self.space, self.lattice, links, r, s).flatten(0, -2).sum(0)
            terms.append(-loops.unsqueeze(0) / self.space.n_colors)
        if self.polyakov:
            terms.append(self._polyakov(links))
        return torch.cat(terms)

    def _polyakov(self, links: Tensor) -> Tensor:
        """Minus the sums of Re tr / N of the straight loops around space and time, ``[2, batch]``."""
        sums = []
        for mu, extent in enumerate(self.lattice.shape):
            loop = self.space.re_trace(straight_loop(self.space, self.lattice, links, mu))
            # from every site, so every loop is there once for each of its links
            sums.append(-loop.flatten(0, -2).sum(0) / (extent * self.space.n_colors))
        *space, time = sums
        return torch.stack([torch.stack(space).sum(0) if space else torch.zeros_like(time), time])

    @staticmethod
    def _smear(network: LinkMap, links: Tensor) -> Tensor:
        """The network in the precision of its weights; solves and sums stay in that of the links."""
        weight = next(network.parameters(), None)
        if weight is None or weight.dtype == links.dtype:
            return network(links)  # type: ignore[no-any-return]
        return network(links.to(weight.dtype)).to(links.dtype)  # type: ignore[no-any-return]

    def forward(self, links: Tensor, aux: Aux) -> Tensor:
        """As :meth:`term_values`, ``[terms, batch]``."""
        return self.term_values(links, aux)

    def packed_value(self, links: Tensor, aux: Aux, *, tolerance: str, strict: bool) -> Tensor:
        """S_theta for each chain."""
        limit = self.tolerance_md if tolerance == "md" else self.fermion.tolerances["accept"]
        terms = self.term_values(links, aux, strict=strict, tolerance=limit, purpose=tolerance)
        return self.coefficients.to(terms) @ terms

    def pop_iterations(self) -> dict[str, Tensor]:
        """Iterations for each chain since the last call."""
        return self.counter.pop()

    @property
    def is_linear(self) -> bool:
        """Whether the linear coefficients are all there is to train."""
        return self.n_parameters == self.coefficients.numel()

    @property
    def n_parameters(self) -> int:
        """Number of real trainable parameters."""
        return sum(p.numel() for p in self.parameters())
