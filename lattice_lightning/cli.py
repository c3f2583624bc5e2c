"""The command line: ``lattice-lightning train|sample|generate|measure|label|report``."""

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from rich.console import Console

from lattice_lightning import __version__
from lattice_lightning.exceptions import InputError, LatticeLightningError

__all__ = ["main", "plain_config"]

USAGE = """usage: lattice-lightning <command> [key=value ...]      (or: python train.py [key=value ...])

  train     train experiment=cask_su2 [resume=FOLDER] [dry_run=true] [debug=limit] [trainer=gpu] ...
  sample    sample checkpoint=FILE [n_steps=60] [n_chains=16] [seed=1] [lattice=[16,16]] ...: exact
            sampling from trained weights alone, no config needed; flows also on another lattice
  generate  generate experiment=NAME ensemble=FOLDER [every=1] ...: HMC configurations of the
            experiment's action, written to a zarr ensemble, resumable
  measure   measure ensemble=FOLDER | file=CONFIGURATION group=SU(2) lattice=[4,4,4,4]
  label     label ensemble=FOLDER [observables=NAME | 'observables={name: {_target_: ...}}']
            [only=[name]] [n=...] [seed=1] [device=cpu]: observables of every configuration, kept in
            the ensemble's folder, resumable
  report    report FOLDER: write report.html of a finished run again
"""


def plain_config(overrides: Sequence[str]) -> dict[str, Any]:
    """The resolved config of a train command line; with ``resume=`` alone, the run's own."""
    from lattice_lightning.pipeline.checks import KINDS
    from lattice_lightning.pipeline.compose import compose_config
    from lattice_lightning.pipeline.folder import RunFolder

    given = {key: value for key, _, value in (o.partition("=") for o in overrides)}
    # a whole command names its experiment, or itself and the kind of run that it is
    kinds = {key.lstrip("+").split(".")[0] for key in given}.intersection(KINDS)
    if "resume" in given and not ("experiment" in given or ("name" in given and kinds)):
        folder = RunFolder.find(given["resume"])
        config = folder.read_config()
        config.update(resume=str(folder.path), dry_run=False, publish=None, output_dir="outputs")
        extra = set(given) - {"resume", "publish"}
        if extra:
            raise InputError(
                f"resume= goes on with the run's own config, but {sorted(extra)} came too; leave them "
                "out, or give the whole command again to have it compared"
            )
        config["publish"] = given.get("publish")
        return config
    composed = OmegaConf.to_container(compose_config(overrides), resolve=True)
    assert isinstance(composed, dict)
    return {str(key): value for key, value in composed.items()}


def _help() -> str:
    from lattice_lightning.pipeline.compose import experiments

    lines = [USAGE, "experiments:"]
    lines += [f"  {name:16s} {comment}" for name, comment in experiments().items()]
    lines.append("\nevery key of configs/ can be set: seed=2 sampling.n_steps=200 trainer=ddp logger=wandb")
    return "\n".join(lines)


def _train(arguments: list[str], console: Console) -> int:
    from lattice_lightning.pipeline.checks import kind_of
    from lattice_lightning.pipeline.points import train_points
    from lattice_lightning.pipeline.processes import is_launched, launch, n_processes
    from lattice_lightning.pipeline.scan import scan
    from lattice_lightning.pipeline.train import check_alone, train

    config = plain_config(arguments)
    kind = kind_of(config)
    if kind == "coverage":
        from lattice_lightning.pipeline.coverage import coverage

        coverage(config, console)
    elif kind == "surrogate":
        from lattice_lightning.pipeline.surrogate import surrogate

        surrogate(config, console)
    elif kind == "classical":
        from lattice_lightning.pipeline.classical import classical

        classical(config, console)
    elif kind == "scan":
        scan(config, console)
    elif n_processes(config["trainer"]) > 1 and not config["dry_run"] and not is_launched():
        check_alone(config)
        return launch(arguments, config["trainer"])
    elif kind == "points":
        train_points(config, console)
    else:
        train(config, console)
    return 0


def _sample(arguments: list[str], console: Console) -> None:
    from lattice_lightning.pipeline.sample import sample_command

    sample_command(_keys(arguments), console)


def _generate(arguments: list[str], console: Console) -> None:
    from lattice_lightning.pipeline.generate import generate

    own = {"ensemble", "every"}
    mine = _keys([a for a in arguments if a.split("=", 1)[0] in own])
    if "ensemble" not in mine:
        raise InputError("generate needs ensemble=FOLDER to write to")
    config = plain_config([a for a in arguments if a.split("=", 1)[0] not in own])
    generate(config, Path(str(mine["ensemble"])), mine.get("every", 1), console)


def _measure(arguments: list[str], console: Console) -> None:
    from lattice_lightning.pipeline.measure import measure_command

    measure_command(_keys(arguments), console)


def _label(arguments: list[str], console: Console) -> None:
    from lattice_lightning.pipeline.label import label_command

    label_command(_keys(arguments), console)


def _report(arguments: list[str], console: Console) -> None:
    from lattice_lightning.pipeline.report import rewrite_report

    if len(arguments) != 1:
        raise InputError("report takes one folder of a finished run")
    console.print(f"report: {rewrite_report(arguments[0])}")


def _keys(arguments: Sequence[str]) -> dict[str, Any]:
    """key=value arguments of the commands without a Hydra config, values read as YAML."""
    values: dict[str, Any] = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals:
            raise InputError(f"expected key=value, got {argument!r}")
        values[key] = _yaml(key, value)
    return values


def _yaml(key: str, text: str) -> Any:
    import yaml

    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise InputError(f"cannot read the value of {key}={text}: a quote or bracket is open") from None
    # a path may look like a date
    return value if isinstance(value, str | int | float | list | None) else text


COMMANDS: dict[str, Callable[[list[str], Console], int | None]] = {
    "train": _train,
    "sample": _sample,
    "generate": _generate,
    "measure": _measure,
    "label": _label,
    "report": _report,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; prints errors of ours without a traceback and returns the exit status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or any(a in ("-h", "--help", "help") for a in arguments):
        print(_help())
        return 0
    if arguments[0] in ("--version", "version"):
        print(__version__)
        return 0
    command, *rest = arguments
    if command not in COMMANDS:
        print(f"unknown command {command!r}; known: {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    from lattice_lightning.pipeline.device import keep_memory, process_rank
    from lattice_lightning.pipeline.processes import world_size

    keep_memory()
    rank = process_rank()
    console = Console(quiet=rank != 0, width=None if sys.stdout.isatty() else 160)
    try:
        return COMMANDS[command](rest, console) or 0
    except LatticeLightningError as error:
        if rank != 0:
            # what all ranks refuse is said by rank 0, whose end ends the others
            time.sleep(2)
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        if rank == 0:
            print("interrupted", file=sys.stderr)
        return 130
    except RuntimeError:
        if world_size() > 1:
            # most likely the connection to a process that failed, which says why and ends this one
            time.sleep(5)
        raise


if __name__ == "__main__":
    sys.exit(main())
