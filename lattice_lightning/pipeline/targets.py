"""What a surrogate run averages: a measured series, or a cumulant of the condensate.

A cumulant is formed of the moments that ``InverseTraces(moments=...)`` measures; a surrogate predicts the
traces in them, from which its own moments are made, and the correction acts on each moment.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lattice_lightning.analysis import CUMULANTS, cumulant, predicted_moments, shifted_moments
from lattice_lightning.analysis.derived import Function
from lattice_lightning.analysis.errors import Array
from lattice_lightning.exceptions import InputError

__all__ = ["Target"]


@dataclass(frozen=True)
class Target:
    """A label and what is needed of it.

    Args:
        label: name of a series, or one of ``CUMULANTS``.
        n_fields: unrooted staggered fields in the moments that were measured.
        source: observable that measures it, where several measure series of these names.

    Example:
        >>> Target("susceptibility").learned(measured=1), Target("plaquette", source="loops").learned()
        (['trace_inverse_2'], ['loops.plaquette'])
    """

    label: str
    n_fields: int = 1
    source: str = ""

    def _named(self, series: str) -> str:
        return f"{self.source}.{series}" if self.source else series

    def _trace(self, n: int) -> str:
        return self._named(f"trace_inverse_{n}")

    def _power(self, k: int) -> str:
        return self._named(f"condensate_power_{k}")

    @property
    def order(self) -> int:
        """Highest moment of a cumulant; 0 for a plain series."""
        return CUMULANTS.index(self.label) + 1 if self.label in CUMULANTS else 0

    @property
    def depth(self) -> int:
        """Highest trace in the label; 0 where there is none."""
        head, _, power = self.label.rpartition("_")
        return int(power) if head == "trace_inverse" and power.isdigit() else self.order

    @property
    def exact_names(self) -> list[str]:
        """Series that label a configuration."""
        if not self.order:
            return [self._named(self.label)]
        return [self._named(f"condensate_moment_{k}") for k in range(1, self.order + 1)]

    def learned(self, measured: int = 0) -> list[str]:
        """Series that surrogates predict, where traces up to ``measured`` are measured everywhere."""
        if not self.order:
            return [self._named(self.label)]
        return [self._trace(n) for n in range(measured + 1, self.order + 1)]

    def measured_names(self, measured: int) -> list[str]:
        """Series measured everywhere: traces and, for a cumulant, powers of the condensate.

        Raises:
            InputError: when nothing is left to predict.
        """
        if not measured:
            return []
        if not 0 < measured < self.depth:
            raise InputError(
                f"measured: {measured} leaves nothing of {self.label} to predict; it holds traces up to "
                f"{self.depth}" if self.depth else
                f"measured: {measured} is for traces and cumulants ({', '.join(CUMULANTS)}), not for "
                f"{self.label}"
            )
        powers = [self._power(k) for k in range(2, self.order + 1)]
        return [self._trace(n) for n in range(1, measured + 1)] + powers

    def exact(self, series: Mapping[str, Array], offset: float) -> Array:
        """Label ``[k, chains, n]``, moments about the offset."""
        given = [series[name] for name in self.exact_names]
        return shifted_moments(given, offset * self.n_fields) if self.order else np.stack(given)

    def approximation(
        self, predicted: Mapping[str, Array], measured: Mapping[str, Array], volume: int, offset: float
    ) -> Array:
        """The same of predictions, and of what is measured everywhere."""
        if not self.order:
            return np.stack([predicted[self._named(self.label)]])
        known = {**predicted, **measured}
        first = known[self._trace(1)]
        powers = [first, *(known.get(self._power(k), first**k) for k in range(2, self.order + 1))]
        traces = {n: known[self._trace(n)] for n in range(2, self.order + 1)}
        moments = predicted_moments(powers, traces, volume, self.n_fields)
        return shifted_moments(moments, offset * self.n_fields)

    def function(self, volume: int, offset: float) -> Function:
        """The quantity as a function of the averages."""
        return cumulant(self.label, volume, offset * self.n_fields) if self.order else _first

    @property
    def offset_names(self) -> list[str]:
        """Series that :meth:`offset` needs."""
        return [self._trace(1)] if self.order else []

    def offset(self, series: Mapping[str, Array]) -> float:
        """Where moments are taken about: the mean of Tr D^-1 / V given; 0 for a plain label."""
        return float(np.mean(series[self._trace(1)])) if self.order else 0.0


def _first(m: Any) -> Any:
    return m[0] + 0.0
