"""Labels and sets of a surrogate run: what labels cost, cheaper ones, whether the gap is long enough."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from lattice_lightning.analysis import Estimate, MarkovSets, estimate, estimate_function
from lattice_lightning.pipeline.places import Place, iterations_of
from lattice_lightning.pipeline.targets import Target

__all__ = ["HELD_OUT", "cheaper_labels", "gap_of", "label_costs", "split_training"]

FIRST = "trace_inverse_iterations_first"
#: last part of the training set, in which the scale of the approximation is fixed
HELD_OUT = 0.2
#: the gap between sets that counts as several autocorrelation times
GAP_IN_TAU = 3


def split_training(sets: MarkovSets) -> tuple[tuple[int, int], tuple[int, int]]:
    """Steps to fit to and, a gap later, held-out ones."""
    first, end = sets.train
    held = end - max(1, round(HELD_OUT * (end - first)))
    return (first, held - sets.gap), (held, end)


def label_costs(place: Place, target: Target, depth: int) -> tuple[float, float]:
    """Seconds and iterations of a label, or of its traces up to a power: all solves, or the first alone."""
    names = target.exact_names
    seconds, labels = place.seconds(names), place.labels[place.names.key_of(names[0])[0]]
    iterations = iterations_of(labels)
    if not 0 < depth <= 2 or FIRST not in labels.names:
        return seconds, iterations
    # one solve a source gives the first two traces, a second the others
    first = float(labels[FIRST].mean())
    return seconds * first / iterations, first


def cheaper_labels(
    others: Sequence[str], sets: MarkovSets, target: Target, here: Place
) -> dict[str, dict[str, Any]]:
    """Labels of every configuration by other observables (fewer sources): what they reach, what they cost.

    ``cost_ratio`` is the cost of the error of labelling everything, with as many more configurations as
    that takes, over the cost of labelling everything; in solver iterations where both solve, since
    seconds of different hours on a shared machine do not compare.
    """
    spans = (sets.correction, sets.unlabelled)
    (first, end), found = split_training(sets)[0], {}
    offset = target.offset({n: here.series(n)[:, first:end] for n in target.offset_names})
    reference = _labelled_by(target, here, spans, offset)
    dear = label_costs(here, target, target.depth)
    for key in others:
        other = replace(target, source=key)
        result, cost = _labelled_by(other, here, spans, offset), label_costs(here, other, other.depth)
        unit = 1 if dear[1] and cost[1] else 0
        ratio = None
        if result.error and reference.error:
            ratio = (result.error / reference.error) ** 2 * cost[unit] / dear[unit]
        found[key] = {**asdict(result), "seconds": cost[0], "iterations": cost[1], "cost_ratio": ratio}
    return found


def gap_of(
    sets: MarkovSets, targets: Mapping[str, Target], regressors: Mapping[str, Any], here: Place
) -> dict[str, Any]:
    """The slowest of labels and features, in configurations, beside the gap between the sets."""
    names = {name for target in targets.values() for name in target.exact_names}
    for given in regressors.values():
        if isinstance(given["features"], list):
            names |= set(here.names.expand(given["features"]))
    times = {name: estimate(here.series(name)[:, : sets.n_steps], name).tau_int or 0.0 for name in names}
    slowest = max(times, key=lambda name: times[name])
    return {"gap": sets.gap, "slowest": slowest, "tau_int": times[slowest],
            "enough": sets.gap >= GAP_IN_TAU * times[slowest]}


def _labelled_by(
    target: Target, place: Place, spans: Sequence[tuple[int, int]], offset: float
) -> Estimate:
    """The quantity from the labels of every configuration, those of this target's observable."""
    names = target.exact_names
    series = {n: np.concatenate([place.series(n)[:, a:b] for a, b in spans], 1) for n in names}
    function = target.function(place.system.lattice.volume, offset)
    return estimate_function(function, target.exact(series, offset), target.label)
