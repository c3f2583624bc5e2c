"""Velocities of a scalar field: plane waves in smeared fields, convolved with kernels.

From smeared fields u_f = s_f * phi come odd functions of the field at a site, with w_f = frequency / width
of u_f: sin(k w_f u_f) of every field, their products with the local field u_0,
sin(a w_0 u_0) cos(b w_f u_f) and cos(a w_0 u_0) sin(b w_f u_f) (so all sin(a w_0 u_0 +- b w_f u_f)), and
u_f itself. Each is convolved with kernels kappa_j: b_{nj} = kappa_j * h_n. All smearing and all kernels are
functions of momentum, defined on any volume. Harmonics of the local field alone, convolved with shells,
are the velocity of 2207.00283.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import combinations_with_replacement, permutations
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from lattice_lightning.exceptions import InputError
from lattice_lightning.groups import FieldSpace, RealLine
from lattice_lightning.lattice import Lattice
from lattice_lightning.models.continuous import VelocityBasis

__all__ = ["PlaneWaves", "SmearedField", "smearing"]


class SmearedField(NamedTuple):
    """A smeared field and the waves in it.

    Attributes:
        smearing: radius of a heat kernel exp(-radius^2 phat^2 / 2) in lattice units (0: the field itself),
            ``neighbours`` (mean of the nearest neighbours) or ``mean`` (mean of the lattice).
        harmonics: number of waves sin(k w u), k = 1, 2, ...
        paired: whether products with waves of the local field are taken.
    """

    smearing: float | str
    harmonics: int
    paired: bool = False


#: sites worked on at a time on a CPU
CHUNK = 2**14

#: leaves 0.1 of the variance 390 of dS/ds at L = 32, lam = 4.572; three harmonics, more radii, and products
#: with smeared functions of the field changed what a fixed path leaves by less than a tenth
DEFAULT = (
    SmearedField(0.0, 4), SmearedField("neighbours", 2, True), SmearedField(0.7, 2, True),
    SmearedField(1.4, 2, True), SmearedField(2.5, 2, True), SmearedField("mean", 3),
)


def _shell(momenta: Tensor, shell: tuple[int, ...]) -> Tensor:
    """Mean of exp(i p x) over the orbit of a displacement under reflections and exchanges of axes."""
    orders = list(dict.fromkeys(permutations(shell)))
    return torch.stack(
        [torch.stack([torch.cos(x * p) for x, p in zip(o, momenta, strict=True)]).prod(0) for o in orders]
    ).mean(0)


def smearing(lattice: Lattice, kind: float | str) -> Tensor:
    """s(p) of :class:`SmearedField`, ``[*lattice]``.

    Raises:
        InputError: for another kind.
    """
    if kind == "mean":
        return (lattice.coordinates().sum(0) == 0).to(torch.float64)
    if kind == "neighbours":
        return _shell(lattice.momenta(), (1,) + (0,) * (lattice.ndim - 1))
    if isinstance(kind, str) or not kind >= 0:
        raise InputError(f"smearing is a radius >= 0, 'neighbours' or 'mean', got {kind!r}")
    return torch.exp(-0.5 * kind**2 * lattice.phat_squared())


class _Tables(NamedTuple):
    smear: Tensor
    """s_f, ``[F, 1, *half]``."""
    kernel: Tensor
    """kappa_j, ``[J, 1, *half]``."""
    trace: Tensor
    """(kappa_j * s_f)(0), ``[F, J]``."""


@lru_cache(maxsize=32)
def _tables(
    lattice: Lattice,
    kinds: tuple[float | str, ...],
    radius: float,
    widths: tuple[float, ...],
    dtype: torch.dtype,
    device: torch.device,
) -> _Tables:
    smear = torch.stack([smearing(lattice, kind) for kind in kinds])
    reach = range(int(radius), -1, -1)
    shells = [(sum(c * c for c in x), x) for x in combinations_with_replacement(reach, lattice.ndim)]
    kernels = [_shell(lattice.momenta(), x) for square, x in sorted(shells) if square <= radius**2]
    kernels += [smearing(lattice, width) for width in widths] + [smearing(lattice, "mean")]
    kernel = torch.stack(kernels)
    trace = (smear.flatten(1) @ kernel.flatten(1).T) / lattice.volume
    half = lattice.shape[-1] // 2 + 1
    smear, kernel = (t[..., :half].unsqueeze(1).to(device, dtype).contiguous() for t in (smear, kernel))
    return _Tables(smear, kernel, trace.to(device, dtype))


class PlaneWaves(VelocityBasis):
    """Vector fields kappa_j * h_n of a real scalar field, see the module's docstring.

    Odd in the field, so a flow along them commutes with phi -> -phi.

    Args:
        lattice: the lattice.
        space: the real line, one component.
        fields: :class:`SmearedField` or their arguments; the first is the local field.
        frequency: w_f times the width of u_f.
        pair_harmonics: largest a and b of products.
        radius: kernels are shells of displacements up to this length ...
        widths: ... heat kernels of these radii, and the mean.

    Raises:
        InputError: for another space, or fields that do not start with the local one.

    Example:
        >>> basis = PlaneWaves(Lattice((4, 4)), fields=[(0.0, 3)], radius=1, widths=())
        >>> basis.n_features
        12
    """

    symmetries: tuple[str, ...] = ("translations", "reflections", "axis_permutations", "z2")
    widths: Tensor

    def __init__(
        self,
        lattice: Lattice,
        space: FieldSpace | None = None,
        fields: Sequence[SmearedField | Sequence[Any]] = DEFAULT,
        frequency: float = 1.0,
        pair_harmonics: int = 2,
        radius: float = 1.0,
        widths: Sequence[float] = (1.5, 3.0, 6.0),
    ) -> None:
        space = RealLine() if space is None else space
        if not isinstance(space, RealLine) or space.n_components is not None:
            raise InputError(f"plane waves are velocities of one real scalar, got a field of {space.name}")
        super().__init__(lattice, space)
        specs = [SmearedField(*field) for field in fields]
        if not specs or specs[0].smearing != 0 or specs[0].paired:
            raise InputError(f"the first field must be the local one, like [0.0, 4], got {list(fields)}")
        if not frequency > 0 or radius < 0 or pair_harmonics < 1 or any(f.harmonics < 0 for f in specs):
            raise InputError(
                "expected frequency > 0, radius >= 0, pair_harmonics >= 1 and harmonics >= 0, got "
                f"{frequency}, {radius}, {pair_harmonics}, {[f.harmonics for f in specs]}"
            )
        if any(f.paired and min(f.harmonics, specs[0].harmonics) < pair_harmonics for f in specs):
            raise InputError(f"paired fields and the local one need at least {pair_harmonics} harmonics")
        # more harmonics first: those that have a k-th are then a slice
        specs[1:] = sorted(specs[1:], key=lambda f: (not f.paired, -f.harmonics))
        self.fields, self.frequency, self.n_pair = tuple(specs), float(frequency), int(pair_harmonics)
        self.radius, self.kernel_widths = float(radius), tuple(float(w) for w in widths)
        for field in self.fields:
            smearing(lattice, field.smearing)
        self.register_buffer("widths", torch.ones(len(specs), dtype=torch.float64))
        self._waves = [(f, k) for f, spec in enumerate(specs) for k in range(1, spec.harmonics + 1)]
        self._paired = [f for f, spec in enumerate(specs) if spec.paired]
        self.n_functions = len(self._waves) + len(specs) + 2 * self.n_pair**2 * len(self._paired)
        self.n_kernels = self._table(self.widths).kernel.shape[0]
        self.n_features = self.n_functions * self.n_kernels

    @classmethod
    def local(cls, lattice: Lattice, harmonics: int = 6, radius: float = 8.0) -> Self:
        """The velocity of 2207.00283: waves of the local field, and one weight a shell of displacements."""
        return cls(lattice, fields=[(0.0, harmonics)], frequency=0.6, radius=radius, widths=())

    @torch.no_grad()
    def calibrate(self, two_point: Tensor) -> None:
        """Set the widths of the smeared fields from <|phi(p)|^2> / V, ``[*lattice]``."""
        two_point = two_point.to("cpu", torch.float64)
        squares = [(smearing(self.lattice, f.smearing).square() * two_point).mean() for f in self.fields]
        self.widths.copy_(torch.stack(squares).sqrt())

    def _table(self, like: Tensor) -> _Tables:
        kinds = tuple(f.smearing for f in self.fields)
        return _tables(self.lattice, kinds, self.radius, self.kernel_widths, like.dtype, like.device)

    # -- functions of the field ----------------------------------------------------------------

    def _smeared(self, field: Tensor, tables: _Tables) -> Tensor:
        """u_f / width of u_f, ``[F, batch, V]``."""
        axes = tuple(range(-self.lattice.ndim, 0))
        modes = torch.fft.rfftn(field, dim=axes)
        scale = (1 / self.widths).to(field).reshape(-1, *[1] * (field.ndim))
        smeared = torch.fft.irfftn((scale * tables.smear) * modes, s=self.lattice.shape, dim=axes)
        return smeared.flatten(2)

    def _harmonics(self, u: Tensor) -> tuple[list[list[Tensor]], list[list[Tensor]]]:
        """sin and cos of k w u by field and k - 1, each ``[batch, V]``."""
        x = self.frequency * u
        sines, cosines = [list(t.unsqueeze(1).unbind(0)) for t in (x.sin(), x.cos())]
        all_sines, all_cosines = [], []
        for f, spec in enumerate(self.fields):
            s, c = [sines[f][0]], [cosines[f][0]]
            for _ in range(1, spec.harmonics):
                s, c = [*s, s[-1] * c[0] + c[-1] * s[0]], [*c, c[-1] * c[0] - s[-1] * s[0]]
            all_sines.append(s[: spec.harmonics])
            all_cosines.append(c[: spec.harmonics])
        return all_sines, all_cosines

    def _functions(
        self, u: Tensor, sines: list[list[Tensor]], cosines: list[list[Tensor]]
    ) -> Iterator[Tensor]:
        """h_n in blocks ``[n, batch, V]``: waves, products, fields."""
        yield torch.stack([sines[f][k - 1] for f, k in self._waves]) if self._waves else u[:0]
        if self._paired:
            n = self.n_pair
            s0, c0 = (torch.stack(t[0][:n])[:, None] for t in (sines, cosines))
            s, c = (torch.stack([x for f in self._paired for x in t[f][:n]]) for t in (sines, cosines))
            yield (s0 * c).flatten(0, 1)
            yield (c0 * s).flatten(0, 1)
        yield u

    def _derivatives(self, sines: list[list[Tensor]], cosines: list[list[Tensor]], volume: int) -> Tensor:
        """sum over sites of dh_n / du_f, ``[batch, n, F]``."""
        n_fields, n = len(self.fields), self.n_pair
        w = self.frequency / self.widths.to(cosines[0][0] if cosines[0] else self.widths)
        batch = len(next(c[0] for c in cosines if c)) if any(cosines) else 1
        out = w.new_zeros(batch, self.n_functions, n_fields)
        for row, (f, k) in enumerate(self._waves):
            out[:, row, f] = (k * w[f]) * cosines[f][k - 1].sum(1)
        if self._paired:
            s0, c0 = (torch.stack(t[0][:n]).transpose(0, 1) for t in (sines, cosines))
            s, c = (
                torch.stack([x for f in self._paired for x in t[f][:n]]).permute(1, 2, 0)
                for t in (sines, cosines)
            )
            shape = (batch, n, len(self._paired), n)
            cc, ss = torch.bmm(c0, c).reshape(shape), torch.bmm(s0, s).reshape(shape)
            number = torch.arange(1, n + 1, dtype=w.dtype, device=w.device)
            first, half = len(self._waves), n * n * len(self._paired)
            both = out[:, first : first + 2 * half].view(batch, 2, n, len(self._paired), n, n_fields)
            both[:, 0, ..., 0] = w[0] * number[:, None, None] * cc
            both[:, 1, ..., 0] = -w[0] * number[:, None, None] * ss
            for place, f in enumerate(self._paired):
                both[:, 0, :, place, :, f] = -w[f] * number * ss[:, :, place]
                both[:, 1, :, place, :, f] = w[f] * number * cc[:, :, place]
        rows = torch.arange(n_fields, device=w.device)
        out[:, self.n_functions - n_fields + rows, rows] = volume / self.widths.to(w)
        return out

    # -- velocity ------------------------------------------------------------------------------

    def velocity(self, internal: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
        """sum theta_nj kappa_j * h_n and its divergence ``[batch]``."""
        parts = [self._velocity(part, theta) for part in self._chunks(internal)]
        omega, divergence = zip(*parts, strict=True)
        return torch.cat(omega), torch.cat(divergence)

    def _chunks(self, field: Tensor) -> tuple[Tensor, ...]:
        # tables of a few fields stay in the cache of a CPU core
        size = max(1, CHUNK // self.lattice.volume) if field.device.type == "cpu" else len(field)
        return field.split(size)

    def _velocity(self, internal: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
        tables = self._table(internal)
        theta = theta.reshape(self.n_functions, self.n_kernels)
        u = self._smeared(internal, tables)
        sines, cosines = self._harmonics(u)
        first, mixed = 0, None
        for block in self._functions(u, sines, cosines):
            part, flat = theta[first : first + len(block)].T, block.flatten(1)
            mixed = part @ flat if mixed is None else torch.addmm(mixed, part, flat)
            first += len(block)
        assert mixed is not None
        axes = tuple(range(-self.lattice.ndim, 0))
        modes = torch.fft.rfftn(mixed.reshape(-1, *internal.shape), dim=axes)
        velocity = torch.fft.irfftn((tables.kernel * modes).sum(0), s=self.lattice.shape, dim=axes)
        derivatives = self._derivatives(sines, cosines, self.lattice.volume)
        divergence = (derivatives * (theta @ tables.trace.T)).sum((1, 2))
        return velocity, divergence.expand(len(internal))

    def design(self, internal: Tensor, force: Tensor) -> Tensor:
        """div b - b . force for every n and j, ``[batch, p]``."""
        pairs = zip(self._chunks(internal), self._chunks(force), strict=True)
        return torch.cat([self._design(*pair) for pair in pairs])

    def _design(self, internal: Tensor, force: Tensor) -> Tensor:
        tables = self._table(internal)
        axes = tuple(range(-self.lattice.ndim, 0))
        u = self._smeared(internal, tables)
        sines, cosines = self._harmonics(u)
        # the kernels are even: (kappa * h) . force = h . (kappa * force)
        modes = tables.kernel * torch.fft.rfftn(force, dim=axes)
        smeared = torch.fft.irfftn(modes, s=self.lattice.shape, dim=axes).flatten(2).permute(1, 2, 0)
        blocks = self._functions(u, sines, cosines)
        along = torch.cat([block.transpose(0, 1) @ smeared for block in blocks], 1)
        derivatives = self._derivatives(sines, cosines, self.lattice.volume)
        return (derivatives @ tables.trace - along).flatten(1)
