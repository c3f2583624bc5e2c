"""What a field lives on: the one place that knows how many colours there are.

Convention: hermitian generators with tr T_a T_b = 1/2 delta_ab (U(1): T = 1), and a link moves as
U -> exp(i w_a T_a) U. The algebra coefficients w_a are real, so momenta, forces and trainable
coefficients are real tensors everywhere.

*Packed* tensors (see :mod:`lattice_lightning.lattice`) hold real components first:
SU(2) elements and their real linear combinations as quaternions ``[4, ...]``, every other group as
real and imaginary parts ``[2, N, N, ...]``. A trajectory of molecular dynamics holds its links packed
(U(1): angles, chains innermost) from start to end.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from lattice_lightning.exceptions import InputError
from lattice_lightning.lattice import Lattice

__all__ = ["FieldSpace", "Group"]


class FieldSpace(ABC):
    """A space that HMC moves on: how momenta are drawn and fields evolve."""

    name: str

    @abstractmethod
    def momentum(self, field: Tensor, rng: torch.Generator) -> Tensor:
        """Standard normal momenta p_a in the algebra of the field."""

    @abstractmethod
    def evolve(self, field: Tensor, omega: Tensor) -> Tensor:
        """Move the field along algebra coefficients: exp(i w_a T_a) U, or phi + w."""

    @abstractmethod
    def reunitarise(self, field: Tensor) -> Tensor:
        """Project the field back where rounding took it off the group."""

    @abstractmethod
    def defect(self, field: Tensor) -> Tensor:
        """Largest deviation from the group for each chain, ``[batch]``."""

    @abstractmethod
    def cold(self, lattice: Lattice, n_chains: int, device: torch.device | str = "cpu") -> Tensor:
        """The ordered start (unit links, zero scalars), public layout, double precision."""

    @abstractmethod
    def hot(self, lattice: Lattice, n_chains: int, rng: torch.Generator) -> Tensor:
        """The disordered start, drawn on the device of the generator."""

    @abstractmethod
    def check_field(self, field: Tensor, lattice: Lattice) -> None:
        """Raise InputError unless the tensor has the layout of a field of this space."""

    @staticmethod
    def kinetic(momentum: Tensor) -> Tensor:
        """Kinetic energy (1/2) sum p_a^2 for each chain, ``[batch]``."""
        return 0.5 * momentum.square().flatten(1).sum(1)


class Group(FieldSpace):
    """A compact gauge group with its packed arithmetic."""

    n_colors: int
    n_generators: int
    n_component_dims: int

    # -- layouts -------------------------------------------------------------------------------

    @abstractmethod
    def pack(self, links: Tensor) -> Tensor:
        """Public links (or elements ``[batch, ..., N, N]``) to the packed layout."""

    @abstractmethod
    def unpack(self, packed: Tensor) -> Tensor:
        """Packed links back to the public layout."""

    @abstractmethod
    def to_matrix(self, packed: Tensor) -> Tensor:
        """Packed elements as real and imaginary parts of matrices ``[2, N, N, ...]``."""

    def pack_algebra(self, omega: Tensor) -> Tensor:
        """Algebra coefficients ``[batch, ..., n_generators]`` to ``[n_generators, ..., batch]``."""
        return omega.movedim(0, -1).movedim(-2, 0).contiguous()

    def unpack_algebra(self, omega: Tensor) -> Tensor:
        """Inverse of :meth:`pack_algebra`."""
        return omega.movedim(0, -1).movedim(-2, 0).contiguous()

    # -- molecular dynamics --------------------------------------------------------------------

    def to_motion(self, links: Tensor) -> Tensor:
        """Public links to the layout that molecular dynamics moves."""
        return self.pack(links)

    def from_motion(self, links: Tensor) -> Tensor:
        """Inverse of :meth:`to_motion`."""
        return self.unpack(links)

    def motion_links(self, links: Tensor) -> Tensor:
        """Packed links of the layout of molecular dynamics."""
        return links

    def move(self, links: Tensor, omega: Tensor) -> Tensor:
        """exp(i w_a T_a) U in the layout of molecular dynamics, w packed; without derivatives."""
        return self.mul(self.exp(omega), links)

    # -- packed arithmetic ---------------------------------------------------------------------

    @abstractmethod
    def mul(self, a: Tensor, b: Tensor) -> Tensor:
        """Product a b of packed elements of equal shape."""

    @abstractmethod
    def mul_nh(self, a: Tensor, b: Tensor) -> Tensor:
        """Product a b^dag."""

    @abstractmethod
    def mul_hn(self, a: Tensor, b: Tensor) -> Tensor:
        """Product a^dag b."""

    @abstractmethod
    def adjoint(self, a: Tensor) -> Tensor:
        """Hermitian conjugate a^dag."""

    @abstractmethod
    def re_trace(self, a: Tensor) -> Tensor:
        """Re tr a; the component axes disappear."""

    @abstractmethod
    def im_trace(self, a: Tensor) -> Tensor:
        """Im tr a (zero for SU(2))."""

    @abstractmethod
    def inner(self, a: Tensor, b: Tensor) -> Tensor:
        """Re tr(a b^dag)."""

    @abstractmethod
    def exp(self, omega: Tensor) -> Tensor:
        """exp(i w_a T_a) of packed coefficients ``[n_generators, ...]``; smooth at w = 0."""

    @abstractmethod
    def project(self, a: Tensor) -> Tensor:
        """Coefficients w of [a]_TA = i w_a T_a, ``[n_generators, ...]``.

        [M]_TA = (M - M^dag)/2 minus its trace part (U(1) keeps the trace).
        """

    @abstractmethod
    def algebra_gradient(self, a: Tensor, gradient: Tensor) -> Tensor:
        """d/dw_a of S(exp(i w_a T_a) a), from the gradient of S by the packed components of a."""

    @abstractmethod
    def haar(self, shape: tuple[int, ...], rng: torch.Generator) -> Tensor:
        """Haar-distributed elements ``[*shape, N, N]`` (U(1): angles ``[*shape]``)."""

    @abstractmethod
    def transform(self, links: Tensor, rotation: Tensor, lattice: Lattice) -> Tensor:
        """Gauge transformation U_mu(n) -> G(n) U_mu(n) G(n+mu)^dag, rotation ``[batch, *lattice, ...]``."""

    # -- field space ---------------------------------------------------------------------------

    def evolve(self, field: Tensor, omega: Tensor) -> Tensor:
        """exp(i w_a T_a) U for algebra coefficients ``[batch, mu, *lattice, n_generators]``."""
        return self.unpack(self.mul(self.exp(self.pack_algebra(omega)), self.pack(field)))

    def momentum(self, field: Tensor, rng: torch.Generator) -> Tensor:
        """Standard normal p_a, ``[batch, mu, *lattice, n_generators]``."""
        shape = self.site_shape(field)
        return torch.randn(
            *shape, self.n_generators, generator=rng, dtype=torch.float64, device=field.device
        )

    @abstractmethod
    def site_shape(self, field: Tensor) -> tuple[int, ...]:
        """Shape of the links without their matrix axes, ``(batch, mu, *lattice)``."""

    def hot(self, lattice: Lattice, n_chains: int, rng: torch.Generator) -> Tensor:
        """Haar-distributed links."""
        return self.haar((n_chains, lattice.ndim, *lattice.shape), rng)

    def check_field(self, field: Tensor, lattice: Lattice) -> None:
        """Raise InputError unless the tensor is links of this group on this lattice."""
        matrix = () if self.name == "U(1)" else (self.n_colors, self.n_colors)
        expected = (lattice.ndim, *lattice.shape, *matrix)
        complex_field = self.name != "U(1)"
        if tuple(field.shape[1:]) != expected or field.is_complex() != complex_field:
            kind = "complex links" if complex_field else "real angles"
            raise InputError(
                f"{self.name} on the lattice {lattice.shape} needs {kind} of shape "
                f"[batch, {', '.join(map(str, expected))}], got {field.dtype} "
                f"{list(field.shape)}; check group and lattice of the config or file"
            )
