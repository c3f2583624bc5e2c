"""One surrogate of a surrogate run: fitted, scaled, corrected, judged against labelling everything.

The training set is cut in two in Markov time: the surrogate is fitted to the first part; the second, held
out, fixes the scale of the approximation and says before anything is corrected how well it will do.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt

from lattice_lightning.analysis import (
    Costs,
    MarkovSets,
    Moments,
    corrected_function,
    linearised,
    optimal_scale,
)
from lattice_lightning.analysis.surrogates import Picture
from lattice_lightning.models.regressors import Regressor
from lattice_lightning.pipeline.build import instantiate
from lattice_lightning.pipeline.places import Place
from lattice_lightning.pipeline.surrogate_judgement import judge, moments_of, plans
from lattice_lightning.pipeline.targets import Target

__all__ = ["HELD_OUT", "LINKS", "SurrogateRow"]

Array = npt.NDArray[np.float64]
LINKS, FIRST = "links", "trace_inverse_iterations_first"
#: last part of the training set, in which the scale of the approximation is fixed
HELD_OUT = 0.2


@dataclass(frozen=True)
class SurrogateRow:
    """A surrogate and where it is trained.

    Args:
        name: of the surrogate in the config.
        given: its config: features, model, measured.
        target: what is averaged.
        sets: training, correction and unlabelled configurations.
        form: of the estimator.
        trained_on: where the labels it sees come from.
        here: where it is used.
        folder: for what networks save.
        fitted: what other labels have fitted already, by surrogate, place and series; added to.
    """

    name: str
    given: Mapping[str, Any]
    target: Target
    sets: MarkovSets
    form: str
    trained_on: Place
    here: Place
    folder: Path
    fitted: dict[str, tuple[Regressor, float]] = field(default_factory=dict)

    @property
    def measured(self) -> int:
        """Traces measured everywhere."""
        return int(self.given.get("measured") or 0)

    @property
    def features(self) -> list[str]:
        """Names of features; none for a network on links."""
        given = self.given["features"]
        return [] if given == LINKS else self.here.names.expand(given)

    def evaluate(self) -> tuple[dict[str, Any], Picture]:
        """Fit, correct and judge: entry of the summary, and series for the figures."""
        first, end = self.sets.train
        cut = end - max(1, round(HELD_OUT * (end - first)))
        fits = {name: self._fit(name, first, cut) for name in self.target.learned(self.measured)}
        models, fit_seconds = {name: m for name, (m, _) in fits.items()}, sum(s for _, s in fits.values())
        # one number for all sets and both places: moments about it
        about = _take(self.trained_on, self.target.offset_names, first, cut)
        offset = self.target.offset(about)
        held_exact = self._exact(self.trained_on, (cut, end), offset)
        held_guess, _ = self._approximation(models, self.trained_on, (cut, end), offset)
        scale, held = self._scale(held_exact, held_guess, offset)

        exact, guess, seconds = {}, {}, {}
        for which in ("correction", "unlabelled"):
            span = getattr(self.sets, which)
            exact[which] = self._exact(self.here, span, offset)
            unscaled, seconds[which] = self._approximation(models, self.here, span, offset)
            guess[which] = scale * unscaled
        function = self.target.function(self.here.system.lattice.volume, offset)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", RuntimeWarning)
            result = corrected_function(
                function, exact["correction"], guess["correction"], guess["unlabelled"], self.form,
                self.target.label,
            )
        n_train = (cut - first) * held_exact.shape[1] + held_exact[0].size
        costs = self._costs(n_train, fit_seconds, seconds["unlabelled"] / guess["unlabelled"][0].size)
        entry = judge(self.target, function, exact, guess, result)
        entry.update(
            features=self.given["features"], measured=self.measured, trained_on=self.trained_on.name,
            scale=scale, held_out=held, n_labels=n_train + result.n_correction, n_train=n_train,
            fit_seconds=fit_seconds, costs=asdict(costs), moments=None,
            warnings=[str(w.message) for w in caught],
        )
        means = np.array([s.mean() for s in exact["correction"]])
        lines = [linearised(function, s["correction"], means) for s in (exact, guess)]
        if moments := moments_of(*lines):
            entry["moments"] = asdict(moments)
        promised = Moments(**held["moments"]) if held["moments"] else None
        entry.update(
            plans(
                function, exact, guess, moments, promised, costs, entry["full"]["error"], result.error
            )
        )
        return entry, (lines[0], lines[1])

    # -- pieces ----------------------------------------------------------------------------------

    def _fit(self, label: str, first: int, end: int) -> tuple[Regressor, float]:
        """A fitted model and the seconds that took, in whatever session it was."""
        place = f"{self.name}_{self.trained_on.name}_{label}"
        if place in self.fitted:
            return self.fitted[place]
        context = {"lattice": self.trained_on.system.lattice, "group": self.trained_on.system.space}
        model = instantiate(self.given["model"], Regressor, **context)  # type: ignore[type-abstract]
        y, tic = self.trained_on.series(label)[:, first:end], perf_counter()
        model.fit(self._inputs(self.trained_on, first, end), y.T.ravel(), folder=self.folder / place)
        seconds, stored = perf_counter() - tic, self.folder / f"{place}.seconds"
        if stored.exists():
            # a network that was finished before is only read
            seconds = max(seconds, float(stored.read_text()))
        self.folder.mkdir(parents=True, exist_ok=True)
        stored.write_text(str(seconds))
        self.fitted[place] = model, seconds
        return model, seconds

    def _inputs(self, place: Place, first: int, end: int) -> Any:
        """Rows in the order of Markov time, all chains of a step together."""
        if self.given["features"] == LINKS:
            return place.fields(first, end)
        x = np.stack([place.series(name)[:, first:end] for name in self.features], -1)
        return x.swapaxes(0, 1).reshape(-1, x.shape[-1])

    def _exact(self, place: Place, span: tuple[int, int], offset: float) -> Array:
        return self.target.exact(_take(place, self.target.exact_names, *span), offset)

    def _approximation(
        self, models: Mapping[str, Regressor], place: Place, span: tuple[int, int], offset: float
    ) -> tuple[Array, float]:
        """``[k, chains, n]`` and the seconds that predicting took."""
        (first, end), chains, tic = span, place.ensemble.shape[1], perf_counter()
        parts: dict[str, list[Array]] = {name: [] for name in models}
        # links of a few steps at a time, for the memory
        stride = 8 if self.given["features"] == LINKS else end - first
        for start in range(first, end, stride):
            inputs = self._inputs(place, start, min(start + stride, end))
            for name, model in models.items():
                parts[name].append(model.predict(inputs).reshape(-1, chains).T)
        seconds = perf_counter() - tic
        predicted = {name: np.concatenate(part, 1) for name, part in parts.items()}
        measured = _take(place, self.target.measured_names(self.measured), first, end)
        volume = place.system.lattice.volume
        return self.target.approximation(predicted, measured, volume, offset), seconds

    def _scale(self, exact: Array, guess: Array, offset: float) -> tuple[float, dict[str, Any]]:
        """Best scale of the approximation and what it promises, on the held-out part."""
        volume = self.trained_on.system.lattice.volume
        function = self.target.function(volume, offset)
        means = np.array([s.mean() for s in exact])
        o, a = (linearised(function, s, means) for s in (exact, guess))
        scale = optimal_scale(o, a)
        promised = moments_of(o, scale * a)
        return scale, {
            "n": int(o.size), "correlation": float(np.corrcoef(o.ravel(), a.ravel())[0, 1]),
            "moments": None if promised is None else asdict(promised),
        }

    def _costs(self, n_train: int, fit_seconds: float, predict_seconds: float) -> Costs:
        """Seconds; the training with its labels and features (its configurations are counted as given)."""
        features = [n for n in self.features if not self._comes_with_the_labels(n)]
        depth = self.target.depth
        label, there = (self._label_seconds(place, depth) for place in (self.here, self.trained_on))
        everywhere = self._label_seconds(self.here, self.measured) if self.measured else 0.0
        approximation = self.here.seconds(features) + predict_seconds + everywhere
        training = n_train * (there + self.trained_on.seconds(features)) + fit_seconds
        return Costs(label, approximation, training=training)

    def _comes_with_the_labels(self, name: str) -> bool:
        return self.here.names.key_of(name)[0] == self.here.names.key_of(self.target.exact_names[0])[0]

    def _label_seconds(self, place: Place, depth: int) -> float:
        """Seconds of the label, or of its traces up to a power: of all solves, or of the first alone."""
        names, seconds = self.target.exact_names, place.seconds(self.target.exact_names)
        labels = place.labels[place.names.key_of(names[0])[0]]
        if not 0 < depth <= 2 or FIRST not in labels.names:
            return seconds
        # one solve a source gives the first two traces, a second the others
        return seconds * float(labels[FIRST].mean() / labels["trace_inverse_iterations"].mean())


def _take(place: Place, names: Sequence[str], first: int, end: int) -> dict[str, Array]:
    """Series of some configurations, ``[chains, end - first]``."""
    return {name: place.series(name)[:, first:end] for name in names}
