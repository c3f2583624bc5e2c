"""Configs: composing them with Hydra, and errors that name the nearest key or option."""

import re
import shlex
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lattice_lightning.exceptions import InputError
from lattice_lightning.pipeline.checks import check_integer

__all__ = [
    "HOW", "command_of", "compose_config", "config_folder", "differences", "experiments", "without_how",
]

#: keys that say how a run is started, not what it computes
HOW = ("resume", "dry_run", "publish", "output_dir")


def config_folder() -> Path:
    """The folder of configs: beside the package in a checkout, inside it in an installation."""
    package = Path(__file__).resolve().parent.parent
    for folder in (package.parent / "configs", package / "configs"):
        if (folder / "train.yaml").exists():
            return folder
    raise InputError(f"no configs found beside {package}; reinstall the package")


def experiments() -> dict[str, str]:
    """Experiments with the first comment line of each that is not a Hydra directive."""
    found = {}
    for path in sorted((config_folder() / "experiment").glob("*.yaml")):
        lines = [line[1:].strip() for line in path.read_text().splitlines() if line.startswith("#")]
        comments = [line for line in lines if not line.startswith("@package")]
        found[path.stem] = comments[0] if comments else ""
    return found


def _register_resolvers() -> None:
    def steps(epochs: Any, trajectories: Any) -> int:
        check_integer("training.epochs", epochs, 1)
        return epochs * check_integer("training.trajectories_per_epoch", trajectories, 1)

    OmegaConf.register_new_resolver("steps", steps, replace=True)


def compose_config(overrides: Sequence[str], name: str = "train") -> DictConfig:
    """The composed config of a command line.

    Raises:
        InputError: for a misspelled key, group or option, naming the nearest one.
    """
    _register_resolvers()
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(config_folder()), version_base="1.3"):
            config = compose(name, list(overrides))
            missing = [k for k in OmegaConf.missing_keys(config) if not k.startswith("_")]
            if not missing:
                OmegaConf.to_container(config, resolve=True)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise InputError(_explain(error, overrides)) from error
    if missing:
        known = ", ".join(experiments())
        raise InputError(
            f"no value for {', '.join(sorted(missing))}: choose an experiment ({known}) as in "
            "`experiment=cask_su2`, or set the key"
        )
    return config


def _explain(error: Exception, overrides: Sequence[str]) -> str:
    text = str(error).strip()
    chain: BaseException | None = error
    while chain is not None:
        text += "\n" + str(chain)
        chain = chain.__cause__
    option = re.search(r"(?:Could not find|In '[^']*': Could not find) '([^']+)'", text)
    if option is None:
        option = re.search(r"Could not (?:load|find) '?([\w/]+)'?", text)
    if option is not None and "/" in option.group(1):
        group, _, wrong = option.group(1).rpartition("/")
        options = sorted(p.stem for p in (config_folder() / group).glob("*.yaml"))
        return f"no {group} is called {wrong!r}; " + _suggest(wrong, options)
    key = re.search(r"Could not override '([^']+)'", text) or re.search(
        r"Key '([^']+)' is not in struct", text
    )
    if key is not None:
        wrong, known = key.group(1), _known_keys(overrides)
        if wrong in known:
            first = str(error).strip().splitlines()[0]
            return f"{first} To add to it, use +{wrong}=...; to add or change, ++{wrong}=..."
        return f"the config has no key {wrong!r}; " + _suggest(wrong, known)
    group_match = re.search(r"No match in the defaults list for '?([\w/]+)'?", text)
    if group_match is not None:
        wrong = group_match.group(1)
        groups = sorted(p.name for p in config_folder().iterdir() if p.is_dir())
        return f"the config has no group {wrong!r}; " + _suggest(wrong, groups)
    value = re.search(r"Interpolation key '([^']+)' not found\s+full_key: (\S+)", text)
    if value is not None:
        wanted, user = value.groups()
        return (
            f"{user} takes its value from {wanted}, which this config does not have: set it, or choose "
            f"another {user.split('.')[0]}="
        )
    return f"the config cannot be composed: {str(error).strip().splitlines()[0]}"


def _suggest(wrong: str, options: list[str]) -> str:
    near = get_close_matches(wrong, options, n=1, cutoff=0.5)
    if not near:
        near = get_close_matches(wrong.rsplit(".", 1)[-1], options, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    shown = options if len(options) <= 12 else [o for o in options if "." not in o]
    return f"{hint}Known: {', '.join(shown)}"


def _known_keys(overrides: Sequence[str]) -> list[str]:
    kept = [o for o in overrides if o.startswith(("experiment=", "debug="))]
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        try:
            config = compose("train", kept)
        except (HydraException, OmegaConfBaseException):
            config = compose("train")
    return sorted(_flatten(OmegaConf.to_container(config, resolve=False)))


def _flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {}
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        flat[name] = value
        flat.update(_flatten(value, f"{name}."))
    return flat


def _hydra_value(value: Any) -> str:
    """A value as Hydra's command line reads it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_hydra_key(k)}: {_hydra_value(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_hydra_value, value)) + "]"
    if not isinstance(value, str):
        return str(value)
    looks_plain = re.fullmatch(r"[A-Za-z_][\w./-]*", value)
    if looks_plain and value.lower() not in ("null", "true", "false", "nan", "inf"):
        return value
    # only backslashes before a quote are escapes
    return "'" + re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), value) + "'"


def _hydra_key(key: Any) -> str:
    return re.sub(r"([\\()\[\]{}:=, \t])", r"\\\1", str(key))


def _overrides(given: Mapping[str, Any], default: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Overrides that make the default the given config; new keys come with ``+``, as a whole."""
    parts = []
    for key in [k for k in default if k not in given]:
        # Hydra deletes no key that is null
        parts += [f"{prefix}{key}=0"] * (default[key] is None) + [f"~{prefix}{key}"]
    for key, value in given.items():
        old = default.get(key)
        if key in default and isinstance(value, Mapping) and isinstance(old, Mapping) and old:
            parts += _overrides(value, old, f"{prefix}{key}.")
        elif key not in default and not re.fullmatch(r"[\w-]+", str(key)):
            parts.append(f"+{prefix[:-1]}={_hydra_value({key: value})}")
        elif key not in default or old != value or isinstance(old, bool) != isinstance(value, bool):
            parts.append(f"{'' if key in default else '+'}{prefix}{key}={_hydra_value(value)}")
    return parts


def without_how(config: Mapping[Any, Any]) -> dict[str, Any]:
    """What a run computes: its config without the keys that say how it is started."""
    return {str(key): value for key, value in config.items() if key not in HOW}


def command_of(config: Mapping[str, Any]) -> str:
    """The command that repeats a run: its experiment, or its name alone, and every key set otherwise."""
    name = str(config["name"])
    parts = [f"experiment={name}" if name in experiments() else f"name={_hydra_value(config['name'])}"]
    # the second time for values that followed a changed one, and did not in this config
    for _ in range(2):
        default = OmegaConf.to_container(compose_config(parts), resolve=True)
        assert isinstance(default, dict)
        given, known = without_how(config), without_how(default)
        more = _overrides(given, known)
        parts += more
        if not more:
            break
    return " ".join(["python train.py", *map(shlex.quote, parts)])


def differences(old: Any, new: Any) -> list[str]:
    """Lines ``key: old -> new`` for every leaf that differs between two plain configs."""
    a, b = _flatten(old), _flatten(new)
    lines = []
    for key in sorted(a.keys() | b.keys()):
        before, after = a.get(key, "(absent)"), b.get(key, "(absent)")
        if before != after and not (isinstance(before, dict) and isinstance(after, dict)):
            lines.append(f"{key}: {before} -> {after}")
    return lines
