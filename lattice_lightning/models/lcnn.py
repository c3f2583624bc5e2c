"""Gauge-invariant network on links: lattice gauge equivariant convolutions (L-CNN, 2012.12901).

Channels W(x) transform like W -> G(x) W G(x)^dag. They start from untraced plaquettes and Polyakov
loops; a layer multiplies them with parallel transports along the axes (the paper's L-CB), so that loops
grow with depth. Traces at the end make numbers of them, whose mean over the volume goes through a head.

All weights are real: W(U*) = W(U)*, so Re tr is even under charge conjugation and Im tr odd.

Rotations. In the paper channels carry no direction and every direction has its own weights, which
breaks them. Summing the loops of all directions instead would mend that, but leaves hermitian sums
only, for SU(2) multiples of the unit matrix. Here channels carry a *label*. In the first layer it is one
of the four plaquettes at the corner x of each plane, or an axis (Polyakov loop); behind it the four are
averaged (a clover of what the layer made), and labels are planes and axes. A rotation permutes labels; a
reflection that turns the orientation of a label round takes the adjoint. That commutes with transports
whose weights depend on how the step lies to the label, and with symmetrised products (A B + B A) / 2 of
channels with one label. Labels meet in the traces, averaged over labels of a class.
"""

from collections.abc import Iterable, Sequence
from itertools import combinations

import torch
from torch import Tensor, nn

from lattice_lightning.exceptions import InputError
from lattice_lightning.gauge import path_product, straight_loop
from lattice_lightning.groups import FieldSpace, Group
from lattice_lightning.lattice import Lattice
from lattice_lightning.models.mlp import MLP, normal_linear

__all__ = ["LCNN", "LCNNLayer", "Labels", "lattice_of"]

SYMMETRIES = ("none", "spatial", "hypercubic")


def _numbered(keys: Iterable[tuple[object, ...]]) -> tuple[list[int], int]:
    """A number for each different key, in order of appearance, and how many there are."""
    seen: dict[tuple[object, ...], int] = {}
    numbers = [seen.setdefault(key, len(seen)) for key in keys]
    return numbers, len(seen)


def lattice_of(group: Group, ndim: int, links: Tensor) -> Lattice:
    """The lattice that links in the public layout ``[batch, mu, *lattice, N, N]`` live on.

    Raises:
        InputError: for links of another group or number of dimensions.
    """
    matrix = 0 if group.name == "U(1)" else 2
    if links.ndim != 2 + ndim + matrix:
        raise InputError(
            f"expected {group.name} links [batch, mu, *lattice{', N, N' * (matrix > 0)}] in {ndim} "
            f"dimensions, got a tensor of shape {list(links.shape)}"
        )
    lattice = Lattice(tuple(links.shape[2 : 2 + ndim]))
    group.check_field(links, lattice)
    return lattice


class Labels:
    """What channels carry, and which weights they share.

    A label is a tuple of signed axes counted from one, as in paths: ``(1, -2)`` the plaquette that starts
    forward in x, then backward in y; ``(3,)`` the Polyakov loop along z.

    Args:
        ndim: dimensions, time last.
        kernel_size: K; transports go -(K - 1) .. K - 1 steps along every axis.
        polyakov: whether there are Polyakov loops.
        symmetry: ``none`` (one label for all channels), ``spatial`` (exchanges of space axes and
            reflections of every axis) or ``hypercubic``.
        corners: whether the four plaquettes of a plane have a label each, as in the first layer.
    """

    def __init__(self, ndim: int, kernel_size: int, polyakov: bool, symmetry: str, corners: bool) -> None:
        self.tied = symmetry != "none"
        planes = list(combinations(range(1, ndim + 1), 2))
        if corners and self.tied:
            # of one orientation, so that their average is a clover
            planes = [leaf for a, b in planes for leaf in ((a, b), (b, -a), (-a, -b), (-b, a))]
        self.loops: list[tuple[int, ...]] = [*planes, *((a,) for a in range(1, ndim + 1) if polyakov)]
        self.labels: list[tuple[int, ...]] = self.loops if self.tied else [()]
        self.steps = [(mu, s * k) for mu in range(ndim) for s in (1, -1) for k in range(1, kernel_size)]
        # no axis is special for the hypercubic group
        time = ndim - 1 if symmetry == "spatial" else -1

        def place(label: tuple[int, ...]) -> tuple[object, ...]:
            return len(label), time in _axes(label)

        def relation(label: tuple[int, ...], mu: int, k: int) -> tuple[object, ...]:
            if not self.tied:
                return mu, k
            inside = mu in _axes(label)
            towards = inside and corners and len(label) == 2 and (mu + 1 if k > 0 else -mu - 1) in label
            return (*place(label), inside, towards, mu == time, abs(k))

        self.classes, self.n_classes = _numbered(place(label) for label in self.labels)
        paths = [[place(label), *(relation(label, *step) for step in self.steps)] for label in self.labels]
        numbers, self.n_relations = _numbered(key for row in paths for key in row)
        #: which weight each label uses for no transport and for each of ``steps``, ``[label, 1 + steps]``
        self.relations = torch.tensor(numbers).reshape(len(self.labels), 1 + len(self.steps))

    def averages_of(self, corners: "Labels") -> Tensor:
        """Weights that average labels of corners to these, ``[label, corner label]``."""
        same = [[float(_axes(a) == _axes(b)) for b in corners.labels] for a in self.labels]
        weights = torch.tensor(same, dtype=torch.float64)
        return weights / weights.sum(1, keepdim=True)


def _axes(label: tuple[int, ...]) -> set[int]:
    return {abs(a) - 1 for a in label}


def _mix(weight: Tensor, channels: Tensor, n_component_dims: int) -> Tensor:
    """Real linear combinations: weight ``[label, out, in]``, channels ``[*components, label, in, ...]``."""
    c = n_component_dims
    flat = channels.flatten(c + 2).flatten(0, c - 1)
    mixed = torch.matmul(weight, flat)
    return mixed.reshape(*channels.shape[: c + 1], weight.shape[1], *channels.shape[c + 2 :])


class LCNNLayer(nn.Module):
    """Convolution by parallel transports, then products with the channels that it started from.

    V_i(x) = sum_{j, mu, k} w_{i j mu k} U_{x, k mu} W_j(x + k mu) U_{x, k mu}^dag
    (L-Conv of 2012.12901) and W'_i = sum_{jk} a_{ijk} W_j V_k (L-Bilin), where j and k run over the
    channels, their adjoints and the unit matrix; so W' holds W and V themselves. Both in one are the
    paper's L-CB with its weights a product of two tensors. There are as many V as W'.

    Args:
        group: gauge group.
        labels: of the channels.
        n_in: channels in (of each label).
        n_out: channels out.
        rng: generator of the initial weights.
    """

    relations: Tensor
    classes: Tensor

    def __init__(self, group: Group, labels: Labels, n_in: int, n_out: int, rng: torch.Generator) -> None:
        super().__init__()
        self.group, self.labels = group, labels
        n_paths, w, v = 1 + len(labels.steps), 1 + 2 * n_in, 1 + 2 * n_out

        def normal(*shape: int, fan_in: int) -> nn.Parameter:
            draw = torch.randn(*shape, generator=rng, dtype=torch.float64)
            return nn.Parameter(fan_in**-0.5 * draw)

        self.transport = normal(labels.n_relations, n_out, n_in, fan_in=n_paths * n_in)
        self.product = normal(labels.n_classes, n_out, w, v, fan_in=w * v)
        self.register_buffer("relations", labels.relations, persistent=False)
        self.register_buffer("classes", torch.tensor(labels.classes), persistent=False)

    def forward(self, links: Tensor, channels: Tensor, lattice: Lattice) -> Tensor:
        """Packed links and channels ``[*components, label, channel, *lattice, batch]`` to channels."""
        c, parts = self.group.n_component_dims, [channels]
        for mu, k in self.labels.steps:
            # steps of one direction follow one another
            parts.append(self._transported(links, parts[-1 if abs(k) > 1 else 0], lattice, mu, k > 0))
        # [path, out, in] of each label to [out, path * in]
        weight = self.transport[self.relations].movedim(1, 2).flatten(2)
        convolved = _mix(weight, torch.cat(parts, c + 1), c)
        left, right = self._extended(channels), self._extended(convolved)
        # the unit matrix comes first among the factors and needs no product
        factors = left.narrow(c + 1, 1, left.shape[c + 1] - 1)
        # one channel at a time: temporaries that fit the cache
        products = self.product[self.classes].unbind(1)
        return torch.stack([self._summed(factors, _mix(weight, right, c)) for weight in products], c + 1)

    def _summed(self, factors: Tensor, mixed: Tensor) -> Tensor:
        group, c = self.group, self.group.n_component_dims
        plain, mixed = mixed.select(c + 1, 0), mixed.narrow(c + 1, 1, factors.shape[c + 1])
        total = group.mul(factors, mixed)
        if self.labels.tied:
            total = 0.5 * (total + group.mul(mixed, factors))
        return plain + total.sum(c + 1)

    def _transported(
        self, links: Tensor, channels: Tensor, lattice: Lattice, mu: int, ahead: bool
    ) -> Tensor:
        group, c = self.group, self.group.n_component_dims
        link = lattice.direction_packed(links, mu).unsqueeze(c).unsqueeze(c)
        if ahead:
            return group.mul_nh(group.mul(link, lattice.shift_packed(channels, mu)), link)
        return lattice.shift_packed(group.mul(group.mul_hn(link, channels), link), mu, -1)

    def _extended(self, channels: Tensor) -> Tensor:
        group, c = self.group, self.group.n_component_dims
        zero = torch.zeros(group.n_generators, *[1] * (channels.ndim - c)).to(channels)
        unit = group.exp(zero).expand_as(channels.narrow(c + 1, 0, 1))
        return torch.cat([unit, channels, group.adjoint(channels)], c + 1)


class LCNN(nn.Module):
    """Links to one gauge-invariant, translation-invariant number, on a lattice of any extents.

    Traces of the input loops and of every layer, divided by N, are averaged over labels of a class and
    over the volume, together with those of an optional layer that acts on the traces of each site. The
    averages, brought to zero mean and unit variance by :meth:`calibrate`, enter linearly and through an
    MLP.

    Args:
        group: gauge group.
        ndim: dimensions of the lattices.
        layers: channels of each layer (of each label).
        kernel_size: K of the transports, which go up to K - 1 steps along every axis.
        polyakov: whether Polyakov loops are among the inputs; without, the number is a local average.
        symmetry: ``spatial`` (time differs by the boundary of fermions), ``hypercubic`` or ``none``, the
            paper's.
        c_even: whether Im tr is left out. It is always for SU(2), where it vanishes, and must be with
            a symmetry, since reflections turn its sign.
        site_hidden: width of the layer at each site; 0 for none.
        head: hidden widths of the MLP; none of them for no MLP.
        seed: of the initial weights.

    Raises:
        InputError: for a field without gauge group, or options out of range.

    Example:
        >>> from lattice_lightning.groups import SU2
        >>> network, group = LCNN(SU2(), ndim=2, layers=(2,)), SU2()
        >>> [network(group.cold(Lattice(shape), 3)).shape for shape in ((4, 4), (6, 3))]
        [torch.Size([3]), torch.Size([3])]
    """

    center: Tensor
    scale: Tensor
    averaging: Tensor
    pooling: Tensor

    def __init__(
        self,
        group: FieldSpace,
        ndim: int = 4,
        layers: Sequence[int] = (4, 4),
        kernel_size: int = 2,
        polyakov: bool = True,
        symmetry: str = "spatial",
        c_even: bool = True,
        site_hidden: int = 0,
        head: Sequence[int] = (16,),
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not isinstance(group, Group):
            raise InputError(f"an L-CNN reads gauge links, got a field of {group.name}")
        if symmetry not in SYMMETRIES:
            raise InputError(f"symmetry must be one of {', '.join(SYMMETRIES)}, got {symmetry!r}")
        if ndim not in (2, 3, 4) or kernel_size < 1 or site_hidden < 0 or any(n < 1 for n in layers):
            raise InputError(
                "expected ndim 2, 3 or 4, kernel_size >= 1, site_hidden >= 0 and channels >= 1, got "
                f"{ndim}, {kernel_size}, {site_hidden}, {tuple(layers)}"
            )
        if not c_even and symmetry != "none":
            raise InputError(
                "Im tr changes sign under reflections: c_even=False goes with symmetry=none, got "
                f"symmetry={symmetry!r}"
            )
        self.group, self.ndim = group, int(ndim)
        tied = (int(kernel_size), bool(polyakov), symmetry)
        self.corners, self.labels = (Labels(ndim, *tied, corners=corners) for corners in (True, False))
        self.imaginary = not c_even and group.n_colors != 2
        rng = torch.Generator().manual_seed(seed)
        widths = [1 if self.corners.tied else len(self.corners.loops), *(int(n) for n in layers)]
        self.layers = nn.ModuleList(
            LCNNLayer(group, self.labels if k else self.corners, widths[k], widths[k + 1], rng)
            for k in range(len(layers))
        )
        n_traces = sum(widths) * self.labels.n_classes * (2 if self.imaginary else 1)
        self.site = normal_linear(n_traces, site_hidden, rng) if site_hidden else None
        n_pooled = n_traces + site_hidden
        self.linear = normal_linear(n_pooled, 1, rng)
        self.head = MLP(n_pooled, head, seed=int(torch.randint(2**31, (), generator=rng))) if head else None
        classes = nn.functional.one_hot(torch.tensor(self.labels.classes)).double()
        self.register_buffer("averaging", self.labels.averages_of(self.corners), persistent=False)
        self.register_buffer("pooling", (classes / classes.sum(0)).T.contiguous(), persistent=False)
        self.register_buffer("center", torch.zeros(n_pooled, dtype=torch.float64))
        self.register_buffer("scale", torch.ones(n_pooled, dtype=torch.float64))

    def forward(self, links: Tensor) -> Tensor:
        """Public links ``[batch, mu, *lattice, N, N]`` (U(1): angles) to ``[batch]``."""
        seen = (self.pooled(links) - self.center) / self.scale
        value: Tensor = self.linear(seen).squeeze(-1)
        return value if self.head is None else value + self.head(seen)

    def channels(self, links: Tensor) -> list[Tensor]:
        """Input loops and the channels of every layer, ``[*components, label, channel, *lattice, batch]``.

        The loops carry the labels ``corners``, the layers ``labels``.
        """
        lattice = lattice_of(self.group, self.ndim, links)
        packed = self.group.pack(links)
        found = [self._loops(packed, lattice)]
        for k, layer in enumerate(self.layers):
            made = layer(packed, found[-1], lattice)
            found.append(made if k else self._averaged(made))
        return found

    def _averaged(self, channels: Tensor) -> Tensor:
        c = self.group.n_component_dims
        return torch.tensordot(self.averaging, channels, ([1], [c])).movedim(0, c)

    def pooled(self, links: Tensor) -> Tensor:
        """Averages over the volume, ``[batch, n]``: what the head sees before it is standardised."""
        group, traces = self.group, []
        for k, channels in enumerate(self.channels(links)):
            # a trace of an average is the average of traces
            channels = channels if k else self._averaged(channels)
            found = [group.re_trace(channels), *([group.im_trace(channels)] if self.imaginary else [])]
            for trace in found:
                traces.append(torch.tensordot(self.pooling, trace, 1).flatten(0, 1) / group.n_colors)
        sites = torch.cat(traces)
        pooled = sites.flatten(1, -2).mean(1)
        if self.site is not None:
            hidden = nn.functional.gelu(self.site(sites.movedim(0, -1)))
            pooled = torch.cat([pooled, hidden.flatten(0, -3).mean(0).T])
        return pooled.T

    @torch.no_grad()
    def calibrate(self, links: Tensor, labels: Tensor | None = None, batch_size: int = 64) -> None:
        """Take mean and standard deviation of what the head sees from fields ``[n, mu, ...]``, n >= 2.

        Volume averages hardly differ between fields; without this the head would learn them slowly.
        Once, with the initial weights: the buffers do not follow the weights later. With labels ``[n]``
        the linear part becomes their ridge regression on what it sees, and the MLP begins at zero.
        """
        parts = [self.pooled(part.to(self.center.device)) for part in links.split(batch_size)]
        pooled = torch.cat(parts)
        self.center.copy_(pooled.mean(0))
        spread = pooled.std(0)
        # what never varies (a constant and its rounding errors) keeps its scale
        varies = spread > 1e-9 * (1 + self.center.abs())
        self.scale.copy_(torch.where(varies, spread, torch.ones_like(spread)))
        if labels is None:
            return
        seen = torch.where(varies, (pooled - self.center) / self.scale, torch.zeros_like(pooled))
        mean = labels.mean()
        self.linear.weight.copy_(_ridge(seen, labels.to(seen) - mean))
        self.linear.bias.fill_(mean)
        if self.head is not None:
            last = self.head.net[-1]
            assert isinstance(last, nn.Linear)
            last.weight.zero_()
            last.bias.zero_()

    def _loops(self, packed: Tensor, lattice: Lattice) -> Tensor:
        group, c, loops = self.group, self.group.n_component_dims, []
        for loop in self.corners.loops:
            if len(loop) == 1:
                loops.append(straight_loop(group, lattice, packed, loop[0] - 1))
            else:
                a, b = loop
                loops.append(path_product(group, lattice, packed, (a, b, -a, -b)))
        stacked = torch.stack(loops, c)
        return stacked.unsqueeze(c + 1) if self.corners.tied else stacked.unsqueeze(c)


def _ridge(x: Tensor, y: Tensor) -> Tensor:
    """Weights of the ridge regression of y ``[n]`` on x ``[n, k]``, both of zero mean.

    The penalty minimises the generalised cross-validation error.
    """
    u, s, v = torch.linalg.svd(x, full_matrices=False)
    projected, best, found = u.T @ y, float("inf"), torch.zeros_like(x[0])
    for exponent in range(-10, 5):
        shrink = s.square() / (s.square() + len(y) * 10.0**exponent)
        # the mean takes one degree of freedom too
        freedom = 1 - (float(shrink.sum()) + 1) / len(y)
        if freedom <= 0:
            continue
        error = float((y - u @ (shrink * projected)).square().mean()) / freedom**2
        if error < best:
            best, found = error, v.T @ (shrink / s.clamp_min(1e-300) * projected)
    return found
