"""Checks of a config before anything is written or computed."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import PurePath
from typing import Any

from lattice_lightning.exceptions import InputError, LatticeLightningError

__all__ = [
    "KINDS", "check_integer", "check_name", "check_numbers", "check_sampling", "explained", "kind_of",
]

#: keys of a config that say what kind of run it is; points are of rows, and stand beside them
KINDS = ("coverage", "surrogate", "classical", "scan", "points", "rows")


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Errors of building from config values as an InputError in one line."""
    try:
        yield
    except LatticeLightningError:
        raise
    except Exception as error:
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{what}: {line}") from error


def kind_of(config: Mapping[str, Any]) -> str:
    """The key of ``KINDS`` that a config sets; rows, which training asks for, when it sets none.

    Raises:
        InputError: naming them, when it sets those of two kinds.
    """
    given = [kind for kind in KINDS if config.get(kind)]
    others = [kind for kind in given if (kind, given[0]) != ("rows", "points")]
    if len(others) > 1:
        raise InputError(
            f"the config sets {' and '.join(others)}, but a run is of one kind; keep one and set the other "
            f"to null, as in {others[-1]}=null"
        )
    return given[0] if given else "rows"


def check_integer(name: str, value: Any, least: int) -> int:
    """The value, if it is an integer of at least ``least``.

    Raises:
        InputError: otherwise.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise InputError(f"{name} must be an integer of at least {least}, got {value!r}")
    return value


def check_name(what: str, name: Any) -> str:
    """The name, if a file can be called so; names in checkpoints must not lead elsewhere.

    Raises:
        InputError: otherwise.
    """
    text = str(name)
    if not text or PurePath(text).name != text or "\\" in text or "\0" in text:
        raise InputError(f"{what} {text!r} cannot be a file name; leave out slashes")
    return text


def check_sampling(sampling: Mapping[str, Any], where: str = "sampling") -> None:
    """Counts of a sampling plan, positive where they must be, and intervals that fit into it.

    Raises:
        InputError: naming the key.
    """
    for key in ("n_steps", "measure_every", "checkpoint_every"):
        check_integer(f"{where}.{key}", sampling[key], 1)
    for key in ("n_thermalise", "save_every"):
        check_integer(f"{where}.{key}", sampling[key], 0)
    n_steps = sampling["n_steps"]
    for key in ("measure_every", "save_every"):
        if sampling[key] > n_steps:
            raise InputError(
                f"{where}.{key}={sampling[key]} is longer than the run, {where}.n_steps={n_steps}"
            )


def check_numbers(config: Mapping[str, Any]) -> None:
    """Seed and counts of a config: integers, positive where they must be.

    Raises:
        InputError: naming the key.
    """
    check_integer("seed", config["seed"], 0)
    for group, positive, others in (
        ("stream", ("n_chains", "n_trajectories"), ("n_thermalise", "n_held_out")),
        ("short_sampling", ("every_n_epochs",), ("n_trajectories",)),
    ):
        for key in (*positive, *others):
            check_integer(f"{group}.{key}", config[group][key], 1 if key in positive else 0)
    importance = config.get("importance")
    beside = importance.get("beside_training") if isinstance(importance, Mapping) else None
    if not isinstance(importance, Mapping) or not isinstance(beside, Mapping):
        raise InputError(
            "importance must be like {n: 16384, batch_size: 1024, n_halving: 128, beside_training: "
            f"{{n: 4096, every_n_epochs: 1}}}}, got {importance!r}; beside_training.n=0 weighs nothing "
            "beside training"
        )
    for key in ("n", "batch_size", "n_halving"):
        check_integer(f"importance.{key}", importance.get(key), 2)
    for key, least in (("n", 0), ("every_n_epochs", 1)):
        check_integer(f"importance.beside_training.{key}", beside.get(key), least)
    check_sampling(config["sampling"])
    if (threads := config["trainer"].get("threads")) is not None:
        check_integer("trainer.threads", threads, 1)
