"""One surrogate of a surrogate run: fitted, scaled, corrected, judged against labelling everything.

The training set is cut in two, a gap of Markov time between: the surrogate is fitted to the first part;
the second, held out, fixes the scale of the approximation and says before anything is corrected how well
it will do.
"""

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from lattice_lightning.analysis import (
    Costs,
    MarkovSets,
    Moments,
    corrected_function,
    linearised,
    optimal_scale,
)
from lattice_lightning.analysis.errors import Array
from lattice_lightning.analysis.surrogates import Picture
from lattice_lightning.exceptions import InputError
from lattice_lightning.methods.network_regressors import NetworkRegressor
from lattice_lightning.models.regressors import Regressor
from lattice_lightning.pipeline.build import instantiate
from lattice_lightning.pipeline.label_sets import label_costs, split_training
from lattice_lightning.pipeline.places import Place
from lattice_lightning.pipeline.publish import write_json
from lattice_lightning.pipeline.surrogate_judgement import carried_out, judge, moments_of, plans
from lattice_lightning.pipeline.targets import Target

__all__ = ["LINKS", "SurrogateRow"]

LINKS = "links"


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
    fitted: dict[tuple[str, str, str], tuple[Regressor, float]] = field(default_factory=dict)

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
        """Fit, correct and judge: entry of the summary, and series for the figures.

        Raises:
            InputError: for what this surrogate cannot do: features that never vary, too few labels, ...
        """
        fit_span, held_span = split_training(self.sets)
        fits = {name: self._fit(name, *fit_span) for name in self.target.learned(self.measured)}
        models, fit_seconds = {name: m for name, (m, _) in fits.items()}, sum(s for _, s in fits.values())
        # one number for all sets and both places: moments about it
        offset = self.target.offset(_take(self.trained_on, self.target.offset_names, *fit_span))
        held_exact = self._exact(self.trained_on, held_span, offset)
        held_guess, _ = self._approximation(models, self.trained_on, held_span, offset)
        centre = held_guess.mean((1, 2), keepdims=True)
        scale, held = self._scale(held_exact, held_guess, offset)

        exact, guess, seconds = {}, {}, {}
        for which in ("correction", "unlabelled"):
            span = getattr(self.sets, which)
            exact[which] = self._exact(self.here, span, offset)
            unscaled, seconds[which] = self._approximation(models, self.here, span, offset)
            # about its mean: a scale about zero would be a bias of its own
            guess[which] = centre + scale * (unscaled - centre)
        function = self.target.function(self.here.system.lattice.volume, offset)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", RuntimeWarning)
            result = corrected_function(
                function, exact["correction"], guess["correction"], guess["unlabelled"], self.form,
                self.target.label,
            )
        steps = sum(end - first for first, end in (fit_span, held_span))
        n_train = self.trained_on.ensemble.shape[1] * steps
        predicting = seconds["unlabelled"] / guess["unlabelled"][0].size
        costs, iterations = self._costs(n_train, fit_seconds, predicting)
        entry = judge(self.target, function, exact, guess, result)
        entry.update(
            features=self.given["features"], measured=self.measured, trained_on=self.trained_on.name,
            scale=scale, held_out=held, n_labels=n_train + result.n_correction, n_train=n_train,
            fit_seconds=fit_seconds, costs=asdict(costs), moments=None, planned=None,
            warnings=[str(w.message) for w in caught],
        )
        # everything is labelled and none of it was fitted to: the best knowledge of the variances
        everything, approximate = (np.concatenate(list(s.values()), 2) for s in (exact, guess))
        means = everything.mean((1, 2))
        lines = [linearised(function, s, means) for s in (everything, approximate)]
        moments = moments_of(*lines)
        if moments:
            entry["moments"] = asdict(moments)
        entry.update(plans(moments, costs, entry["full"]["error"]))
        entry["iterations"] = None
        if iterations is not None:
            solved = plans(moments, iterations, entry["full"]["error"])
            entry["iterations"] = {**asdict(iterations), **solved}
        entry["with_trajectories"] = None
        if sampling := self.here.sampling:
            each = sampling["seconds_per_trajectory"] * sampling["trajectories_between_configurations"]
            dearer = replace(costs, configuration=each, training=costs.training + n_train * each)
            entry["with_trajectories"] = plans(moments, dearer, entry["full"]["error"])["cost_ratio"]
        # another ensemble's variances promise nothing here
        if held["moments"] and self.trained_on is self.here:
            entry["planned"] = carried_out(Moments(**held["moments"]), costs, function, exact, guess)
        n_bc = exact["correction"].shape[2]
        return entry, (lines[0][:, :n_bc], lines[1][:, :n_bc])

    # -- pieces ----------------------------------------------------------------------------------

    def _fit(self, label: str, first: int, end: int) -> tuple[Regressor, float]:
        """A fitted model and the seconds that took; of a fit that was killed, those of its last session."""
        key = (self.name, self.trained_on.name, label)
        if key in self.fitted:
            return self.fitted[key]
        context = {"lattice": self.trained_on.system.lattice, "group": self.trained_on.system.space}
        model = instantiate(self.given["model"], Regressor, **context)  # type: ignore[type-abstract]
        x, y = self._inputs(self.trained_on, first, end), self.trained_on.series(label)[:, first:end]
        if self.features:
            self._require_variation(x)
        folder = self.folder / self.name / self.trained_on.name / label
        folder.mkdir(parents=True, exist_ok=True)
        stored = folder / "seconds.json"
        before = json.loads(stored.read_text()) if stored.exists() else 0.0
        tic = perf_counter()
        model.fit(x, y.T.ravel(), folder=folder)
        spent = perf_counter() - tic
        if isinstance(model, NetworkRegressor):
            # one that was finished before is only read
            spent = max(spent, before)
        write_json(stored, spent)
        self.fitted[key] = model, spent
        return model, spent

    def _require_variation(self, x: Array) -> None:
        still = np.flatnonzero(x.min(0) == x.max(0))
        if len(still):
            names = ", ".join(self.features[i] for i in still)
            raise InputError(
                f"{self.name}: {names} never vary on the training set of {self.trained_on.name}; leave "
                "them out of the features, or measure what went wrong there"
            )

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

    def _costs(
        self, n_train: int, fit_seconds: float, predict_seconds: float
    ) -> tuple[Costs, Costs | None]:
        """Seconds and solver iterations; the training with its labels (its configurations are as given)."""
        features = [n for n in self.features if not self._comes_with_the_labels(n)]
        depth, measured = self.target.depth, self.measured
        label, there = (label_costs(place, self.target, depth) for place in (self.here, self.trained_on))
        everywhere = label_costs(self.here, self.target, measured) if measured else (0.0, 0.0)
        cheap, taught = self.here.seconds(features), self.trained_on.seconds(features)
        # a labelled configuration has what is measured everywhere already
        seconds = Costs(
            label[0], cheap + predict_seconds + everywhere[0],
            training=n_train * (there[0] + taught) + fit_seconds, shared=everywhere[0],
        )
        if not label[1]:
            return seconds, None
        # what is not solved for counts as the iterations that its seconds would have paid
        rate = label[1] / label[0]
        return seconds, Costs(
            label[1], everywhere[1] + (cheap + predict_seconds) * rate,
            training=n_train * (there[1] + taught * rate) + fit_seconds * rate, shared=everywhere[1],
        )

    def _comes_with_the_labels(self, name: str) -> bool:
        return self.here.names.key_of(name)[0] == self.here.names.key_of(self.target.exact_names[0])[0]


def _take(place: Place, names: Sequence[str], first: int, end: int) -> dict[str, Array]:
    """Series of some configurations, ``[chains, end - first]``."""
    return {name: place.series(name)[:, first:end] for name in names}
