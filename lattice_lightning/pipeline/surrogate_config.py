"""The config of a surrogate run, checked before the first trajectory."""

from collections.abc import Mapping
from dataclasses import replace
from math import ceil
from typing import Any

from lattice_lightning.analysis import MarkovSets
from lattice_lightning.analysis.correction import FORMS, MIN_EFFECTIVE_LABELS
from lattice_lightning.analysis.errors import MIN_CHAINS
from lattice_lightning.exceptions import InputError
from lattice_lightning.models.regressors import Regressor
from lattice_lightning.observables import InverseTraces
from lattice_lightning.pipeline.build import System, instantiate
from lattice_lightning.pipeline.checks import check_integer, check_name
from lattice_lightning.pipeline.label_sets import HELD_OUT, split_training
from lattice_lightning.pipeline.places import Probe
from lattice_lightning.pipeline.surrogate_rows import LINKS
from lattice_lightning.pipeline.synthetic import MIN_STEPS
from lattice_lightning.pipeline.targets import Target

__all__ = ["HERE", "check_surrogate", "find_targets", "nothing_left"]

HERE = "here"
_SETS = ("n_train", "n_correction", "n_unlabelled", "gap")
_DEFAULTS: dict[str, Any] = {
    "form": "all", "train_on": {}, "every": 1, "stored": {}, "measured_by": "", "cheaper": [],
}
_NEEDED = {"label", "sets", "regressors"}
_ENTRY = {"features", "model", "measured", "train_on", "labels"}


def check_surrogate(config: Mapping[str, Any]) -> tuple[dict[str, Any], MarkovSets]:
    """Options with what the config leaves out, and the sets.

    Raises:
        InputError: for keys, names and numbers that cannot work.
    """
    given = config["surrogate"]
    known = _NEEDED | set(_DEFAULTS)
    if not isinstance(given, Mapping):
        raise InputError(f"surrogate must be a mapping with {', '.join(sorted(known))}, got {given!r}")
    options = {**_DEFAULTS, **{k: v for k, v in given.items() if v is not None or k not in _DEFAULTS}}
    if unknown := set(options) - known:
        raise InputError(f"surrogate has no key {sorted(unknown)}; known: {', '.join(sorted(known))}")
    if missing := _NEEDED - set(options):
        raise InputError(f"surrogate needs {', '.join(sorted(missing))}")
    if options["form"] not in FORMS:
        raise InputError(f"surrogate.form must be one of {', '.join(FORMS)}, got {options['form']!r}")
    labels = [options["label"]] if isinstance(options["label"], str) else options["label"]
    if not isinstance(labels, list) or not labels or not all(isinstance(name, str) for name in labels):
        raise InputError(f"surrogate.label must be a name or a list of names, got {options['label']!r}")
    options["label"] = labels
    check_integer("surrogate.every", options["every"], 1)
    if set(options["sets"]) != set(_SETS):
        raise InputError(f"surrogate.sets needs {', '.join(_SETS)}, got {', '.join(options['sets'])}")
    for key in _SETS:
        check_integer(f"surrogate.sets.{key}", options["sets"][key], 2 if key == "n_train" else 1)
    for name in options["train_on"]:
        check_name("a place of surrogate.train_on", name)
        if name == HERE:
            raise InputError(f"surrogate.train_on: {HERE} is this run's own ensemble; take another name")
    places = {HERE, *options["train_on"]}
    if unknown := set(options["stored"]) - places:
        raise InputError(f"surrogate.stored names {sorted(unknown)}; the places are {', '.join(places)}")
    # an experiment that builds on another leaves a surrogate out by null
    options["regressors"] = {n: e for n, e in (options["regressors"] or {}).items() if e is not None}
    if not options["regressors"]:
        raise InputError("surrogate.regressors is empty; give at least one surrogate")
    for name, entry in options["regressors"].items():
        check_name("a surrogate of surrogate.regressors", name)
        _check_entry(f"surrogate.regressors.{name}", entry, places, labels)
    sets = MarkovSets.in_order(*(options["sets"][key] for key in _SETS))
    _check_lengths(sets, int(config["stream"]["n_chains"]))
    return options, sets


def _check_lengths(sets: MarkovSets, n_chains: int) -> None:
    """What no run of these lengths could do, however it turned out."""
    (first, cut), (held, end) = split_training(sets)
    if cut - first < 2 or end - held < 2:
        raise InputError(
            f"surrogate.sets.n_train = {end - first} leaves {max(cut - first, 0)} steps to fit to and "
            f"{end - held} held out, the gap of {sets.gap} between them; at least 2 of each are needed: a "
            f"longer n_train, {ceil((sets.gap + 2) / (1 - HELD_OUT)) + 2} or more"
        )
    for key in ("correction", "unlabelled"):
        length = getattr(sets, key)[1] - getattr(sets, key)[0]
        if n_chains < MIN_CHAINS and length < MIN_STEPS:
            raise InputError(
                f"surrogate.sets.n_{key} must be at least {MIN_STEPS} with fewer than {MIN_CHAINS} chains, "
                f"got {length}: no error can be formed"
            )
    labels = n_chains * (sets.correction[1] - sets.correction[0])
    if labels < MIN_EFFECTIVE_LABELS:
        raise InputError(
            f"surrogate.sets.n_correction x {n_chains} chains are {labels} labels, too few for an honest "
            f"correction; at least {MIN_EFFECTIVE_LABELS} independent ones are needed"
        )


def _check_entry(where: str, entry: Any, places: set[str], labels: list[str]) -> None:
    if not isinstance(entry, Mapping) or not entry.get("features") or "model" not in entry:
        raise InputError(
            f"{where} must be like {{features: [plaquette], model: {{...}}}} or {{features: {LINKS}, "
            f"model: ...}}, got {entry!r}"
        )
    if unknown := set(entry) - _ENTRY:
        raise InputError(f"{where} has no key {sorted(unknown)}; known: {', '.join(sorted(_ENTRY))}")
    if entry["features"] != LINKS and not isinstance(entry["features"], list):
        raise InputError(f"{where}.features must be a list of names or {LINKS}, got {entry['features']!r}")
    for key, known in (("train_on", places), ("labels", set(labels))):
        if not isinstance(entry.get(key) or [], list):
            raise InputError(f"{where}.{key} must be a list, got {entry[key]!r}")
        if unknown := set(entry.get(key) or ()) - known:
            raise InputError(f"{where}.{key} names {sorted(unknown)}; there are {', '.join(sorted(known))}")


def find_targets(
    options: Mapping[str, Any], system: System, probes: Mapping[str, Probe]
) -> dict[str, Target]:
    """Every label; whatever they and the features need must be measured at every place."""
    counts = [o.n_fields for o in system.observables if isinstance(o, InverseTraces) and o.moments]
    targets = {}
    for label in options["label"]:
        targets[label] = target = Target(label, counts[0] if counts else 1, options["measured_by"])
        for key in options["cheaper"]:
            for series in replace(target, source=key).exact_names:
                probes[HERE].key_of(series)
        if all(nothing_left(target, e) for e in options["regressors"].values()):
            raise InputError(
                f"no surrogate predicts anything of {label}: each names other labels, or measures all its "
                "traces; leave the label out"
            )
        for name, entry in options["regressors"].items():
            where, measured = f"surrogate.regressors.{name}", entry.get("measured") or 0
            check_integer(f"{where}.measured", measured, 0)
            if nothing_left(target, entry):
                continue
            given = entry["features"]
            features = [] if given == LINKS else probes[HERE].expand(given)
            learned = target.learned(measured)
            model = instantiate(
                entry["model"], Regressor, lattice=system.lattice, group=system.space  # type: ignore[type-abstract]
            )
            if (model.takes == LINKS) != (given == LINKS):
                raise InputError(
                    f"{where}: {type(model).__name__} takes {model.takes}, but features is {given!r}"
                )
            needed = [*target.exact_names, *target.offset_names, *learned, *target.measured_names(measured)]
            for place in probes.values():
                for series in [*needed, *features]:
                    place.key_of(series)
            costly = {probes[HERE].key_of(series)[0] for series in target.exact_names}
            free = {probes[HERE].key_of(series) for series in target.measured_names(measured)}
            for feature in features:
                found = probes[HERE].key_of(feature)
                if found[0] in costly and found not in free:
                    raise InputError(
                        f"{where} has {feature!r} among its features, which comes with the label "
                        f"{label!r} and costs as much; leave it out"
                        + (f", or give measured: {target.depth - 1}" if target.depth > 1 else "")
                    )
    return targets


def nothing_left(target: Target, entry: Mapping[str, Any]) -> bool:
    """Of several labels, a surrogate is for those it names that hold more than the traces it measures."""
    others = entry.get("labels") and target.label not in entry["labels"]
    return bool(others) or 0 < target.order <= (entry.get("measured") or 0)
