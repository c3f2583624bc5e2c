"""The folder of a run: where everything goes, and what a resumed run must agree with."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from lattice_lightning.exceptions import InputError, ResumeError
from lattice_lightning.pipeline.checks import check_name
from lattice_lightning.pipeline.compose import differences, without_how

__all__ = ["RunFolder"]


class RunFolder:
    """Paths of one run, ``outputs/<experiment>/<time>/``.

    Args:
        path: the folder; made when it does not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    @classmethod
    def create(cls, config: Mapping[str, Any]) -> "RunFolder":
        """A new folder with config.yaml in it."""
        name = check_name("the experiment name", config["name"])
        parent = Path(str(config["output_dir"])).resolve() / name
        stamp, k = time.strftime("%Y-%m-%d_%H-%M-%S"), 1
        while True:
            path = parent / (stamp if k == 1 else f"{stamp}_{k}")
            try:
                path.mkdir(parents=True)
                break
            except FileExistsError:
                k += 1
            except OSError as error:
                raise InputError(f"cannot make the run folder {path}: {error}") from error
        folder = cls(path)
        folder.write_config(config)
        return folder

    @classmethod
    def find(cls, given: str | Path) -> "RunFolder":
        """The run folder that a path names or lies in.

        Raises:
            ResumeError: when there is none.
        """
        path = Path(given).resolve()
        for candidate in (path, *path.parents):
            if (candidate / "config.yaml").exists():
                return cls(candidate)
        raise ResumeError(
            f"{given} is not a run folder and lies in none (no config.yaml there or above); give "
            "the folder outputs/<experiment>/<time> that the run printed"
        )

    # -- config --------------------------------------------------------------------------------

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write config.yaml, the resolved config without the keys that say how to start."""
        kept = without_how(config)
        partial = self.path / "config.yaml.partial"
        partial.write_text(OmegaConf.to_yaml(OmegaConf.create(kept)))
        partial.replace(self.path / "config.yaml")

    def read_config(self) -> dict[str, Any]:
        """The config that the run was started with."""
        loaded = OmegaConf.to_container(OmegaConf.load(self.path / "config.yaml"), resolve=True)
        if not isinstance(loaded, dict):
            raise ResumeError(f"{self.path / 'config.yaml'} is not a config")
        return {str(k): v for k, v in loaded.items()}

    def require_same(self, config: Mapping[str, Any]) -> None:
        """Refuse to go on with another config.

        Raises:
            ResumeError: listing every key that differs.
        """
        wanted = without_how(config)
        if lines := differences(self.read_config(), wanted):
            listed = "\n  ".join(lines)
            raise ResumeError(
                f"{self.path} was started with another config (stored -> given):\n  {listed}\n"
                "resume with the stored one (give resume= alone), or start a new run"
            )

    # -- places --------------------------------------------------------------------------------

    @property
    def metrics(self) -> Path:
        """Log of all rows."""
        return self.path / "metrics.csv"

    @property
    def summary(self) -> Path:
        """summary.json."""
        return self.path / "summary.json"

    @property
    def report(self) -> Path:
        """report.html."""
        return self.path / "report.html"

    def stream(self, name: str, rank: int) -> Path:
        """Stored trajectories of one rank."""
        return self.path / "stream" / f"{name}_rank{rank}"

    def chains(self, name: str, rank: int) -> Path:
        """Chains of one row on one rank."""
        return self.path / "chains" / f"{name}_rank{rank}.pt"

    def importance(self, name: str, rank: int) -> Path:
        """Log weights of direct draws of one row on one rank."""
        return self.path / "importance" / f"{name}_rank{rank}.pt"

    def point(self, name: str) -> Path:
        """Folder of one point of a run at several points."""
        return self.path / "points" / name

    def ensemble(self, name: str) -> Path:
        """Stored ensemble of one row."""
        return self.path / "ensembles" / f"{name}.zarr"

    def checkpoint(self, row: str) -> Path:
        """Lightning checkpoint of a row while it trains, replaced every epoch."""
        return self.path / "checkpoints" / row / "last.ckpt"

    def weights(self, row: str) -> Path:
        """Trained weights of a row with the config that rebuilds it."""
        return self.path / "checkpoints" / f"{row}.pt"
