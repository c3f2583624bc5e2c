"""Networks as surrogates of an expensive observable: :class:`.Regressor` trained with Lightning.

Rows must be ordered in Markov time (of many chains: all chains of a step, then the next step), because
the last part of them validates: neighbours in Markov time are alike, and a random part would tell how
well the network remembers. Everything follows from the seed; torch's global random state is left as it
was.
"""

import logging
import sys
import warnings
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy.typing as npt
import torch
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.plugins.environments import LightningEnvironment
from torch import Tensor, nn

from lattice_lightning.exceptions import FormatError, InputError
from lattice_lightning.files import save_atomically
from lattice_lightning.groups import FieldSpace, Group, from_name
from lattice_lightning.methods.regressor_files import (
    digest_of,
    read_weights,
    require_same_fit,
)
from lattice_lightning.methods.surrogate_regression import LabelledData, SurrogateRegression
from lattice_lightning.models.lcnn import LCNN, lattice_of
from lattice_lightning.models.mlp import MLP
from lattice_lightning.models.regressors import Array, Regressor
from lattice_lightning.seeds import derive_seed

__all__ = ["LCNNRegressor", "MLPRegressor", "NetworkRegressor"]

#: Lightning's advice that contradicts ours, and what its code makes torch say
_ADVICE = (
    ".*does not have many workers.*",
    ".*Checkpoint directory .* exists and is not empty.*",
    ".*Experiment logs directory .* exists and is not empty.*",
    ".*LeafSpec.*",
    ".*GPU available but not used.*",
    ".*You're resuming from a checkpoint that ended.*",
)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Lightning's advice, and with torch's global random state put back at the end."""
    logger = logging.getLogger("pytorch_lightning")
    level = logger.level
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        for message in _ADVICE:
            warnings.filterwarnings("ignore", message=message)
        logger.setLevel(logging.WARNING)
        try:
            yield
        finally:
            logger.setLevel(level)


class NetworkRegressor(Regressor):
    """What networks share: training, files.

    Subclasses store their own arguments in ``self.options`` (plain values) before they call this
    constructor, and build the network.

    Args:
        epochs: longest training.
        batch_size: rows a step, and at a time in predictions.
        lr: learning rate at the start, of AdamW; it falls to zero along a cosine over all epochs.
        weight_decay: of AdamW.
        validation: share of the rows, the last in Markov time, that picks the best weights.
        patience: epochs without improvement there before the training stops.
        seed: of weights and batches.
        device: such as ``cpu`` or ``cuda:0``.

    Raises:
        InputError: for options out of range.
    """

    options: dict[str, Any]
    _model: SurrogateRegression | None

    def __init__(
        self,
        epochs: int = 200,
        batch_size: int = 256,
        lr: float = 1e-3,
        weight_decay: float = 1e-4,
        validation: float = 0.2,
        patience: int = 20,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        if min(epochs, batch_size, patience) < 1 or not lr > 0 or not weight_decay >= 0:
            raise InputError(
                "expected epochs, batch_size, patience >= 1, lr > 0 and weight_decay >= 0, got "
                f"{epochs}, {batch_size}, {patience}, {lr}, {weight_decay}"
            )
        if not 0 < validation < 1:
            raise InputError(
                f"validation is the share of rows between 0 and 1 that validates, got {validation}"
            )
        self.epochs, self.batch_size, self.patience = int(epochs), int(batch_size), int(patience)
        self.lr, self.weight_decay, self.validation = float(lr), float(weight_decay), float(validation)
        self.seed = int(seed)
        try:
            self.device = torch.device(device)
        except RuntimeError as error:
            raise InputError(f"device must be like cpu or cuda:0, got {device!r}") from error
        self._model = None

    # -- for subclasses ------------------------------------------------------------------------

    @abstractmethod
    def _network(self, shape: Sequence[int]) -> nn.Module:
        """A new network for inputs ``[n, *shape]``."""

    @classmethod
    def _from_options(cls, options: dict[str, Any]) -> Self:
        """The regressor of stored plain options."""
        return cls(**options)

    @property
    def config(self) -> dict[str, Any]:
        """Every argument, as plain values."""
        return {
            **self.options, "epochs": self.epochs, "batch_size": self.batch_size, "lr": self.lr,
            "weight_decay": self.weight_decay, "validation": self.validation, "patience": self.patience,
            "seed": self.seed, "device": str(self.device),
        }

    @property
    def n_parameters(self) -> int:
        """Trained weights; 0 before a fit."""
        return 0 if self._model is None else sum(p.numel() for p in self._model.network.parameters())

    # -- fit and predict -----------------------------------------------------------------------

    def _fit(self, inputs: Any, labels: Array, folder: Path | None) -> SurrogateRegression:
        x, y = torch.as_tensor(inputs), torch.as_tensor(labels)
        data = LabelledData(x, y, self.validation, self.batch_size, derive_seed(self.seed, "batches"))
        method = self._method(x.shape[1:], data.n_batches)
        config = {key: value for key, value in self.config.items() if key != "device"}
        digest = digest_of(self._numbers(inputs), labels)
        method.origin = {"regressor": type(self).__name__, "config": config, "data": digest}
        folder = None if folder is None else Path(folder)
        if folder is not None and (folder / "weights.pt").exists():
            payload = read_weights(folder / "weights.pt")
            require_same_fit(payload["origin"], method.origin, folder)
            method.load_state_dict(payload["state_dict"])
            return method.to(self.device).eval()
        last = None if folder is None else folder / "last.ckpt"
        resume = last if last is not None and last.exists() else None
        finished = False
        if resume is None:
            method.prepare(data)
        else:
            payload = read_weights(resume)
            require_same_fit(payload["origin"], method.origin, resume.parent)
            finished = payload["best"]["waited"] >= self.patience or payload["epoch"] + 1 >= self.epochs
            if finished:
                method.load_state_dict(payload["state_dict"])
                method.on_load_checkpoint(payload)
        if not finished:
            self._train(method, data, folder, resume)
        method.take_best()
        if folder is not None:
            fitted = {"origin": method.origin, "state_dict": method.state_dict()}
            save_atomically(folder / "weights.pt", fitted)
        return method.to(self.device).eval()

    def _method(self, shape: Sequence[int], n_batches: int) -> SurrogateRegression:
        n_features = int(shape[0]) if self.takes == "features" else None
        method = SurrogateRegression(
            self._network(shape), n_features, self.epochs, n_batches, self.lr, self.weight_decay,
            self.patience,
        )
        return method.to(self.device)

    def _train(
        self, method: SurrogateRegression, data: LabelledData, folder: Path | None, resume: Path | None
    ) -> None:
        callbacks, loggers = [], []
        if folder is not None:
            callbacks.append(
                ModelCheckpoint(
                    folder, filename="last", save_on_train_epoch_end=True, enable_version_counter=False
                )
            )
            # a new version each session: Lightning's logger deletes the rows of its own version
            loggers.append(CSVLogger(folder, name="log"))
        cpu = self.device.type == "cpu"
        with _quiet():
            trainer = Trainer(
                accelerator="cpu" if cpu else "gpu",
                devices=1 if cpu else [self.device.index or 0],
                # one process, also inside a batch job
                plugins=[LightningEnvironment()],
                max_epochs=self.epochs,
                logger=loggers,
                callbacks=list(callbacks),
                enable_checkpointing=bool(callbacks),
                enable_progress_bar=sys.stdout.isatty(),
                enable_model_summary=False,
                log_every_n_steps=1,
                num_sanity_val_steps=0,
                reload_dataloaders_every_n_epochs=1,
                use_distributed_sampler=False,
                default_root_dir=None if folder is None else str(folder),
            )
            trainer.fit(method, data, ckpt_path=None if resume is None else str(resume), weights_only=True)
        if trainer.interrupted:
            raise KeyboardInterrupt

    def _predict(self, inputs: Any) -> Array:
        assert self._model is not None
        x = torch.as_tensor(inputs)
        self._check_shape(x)
        predicted: Array = self._model.predict(x, self.batch_size).numpy()
        return predicted

    def _check_shape(self, inputs: Tensor) -> None:
        """Raise InputError unless the fitted network can read the inputs."""

    # -- files ---------------------------------------------------------------------------------

    def save(self, path: Path | str) -> Path:
        """Write weights and plain config, enough for :meth:`load`; raises InputError before a fit."""
        if self._model is None:
            raise InputError(f"{type(self).__name__} is saved after fit({self.takes}, labels)")
        origin = {"regressor": type(self).__name__, "config": self.config, "shape": list(self._shape())}
        save_atomically(Path(path), {"origin": origin, "state_dict": self._model.state_dict()})
        return Path(path)

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """The fitted regressor of a file, on the CPU.

        Raises:
            InputError: when there is no file, or it holds another kind of regressor.
            FormatError: when it is damaged.
        """
        payload = read_weights(Path(path))
        origin = payload["origin"]
        if origin.get("regressor") != cls.__name__ or "shape" not in origin:
            raise InputError(
                f"{path} holds {origin.get('regressor')!r}, not what {cls.__name__}.save writes"
            )
        try:
            made = cls._from_options({**origin["config"], "device": "cpu"})
            method = made._method(origin["shape"], 1)
            method.load_state_dict(payload["state_dict"])
        except (TypeError, KeyError, RuntimeError, InputError) as error:
            line = " ".join(str(error).split())
            raise FormatError(f"{path} does not fit the network of its own config: {line}") from error
        made._model = method.eval()
        return made

    @abstractmethod
    def _shape(self) -> Sequence[int]:
        """Shape of inputs that :meth:`_network` rebuilds the fitted network from."""


class MLPRegressor(NetworkRegressor):
    """An MLP on standardised features.

    Args:
        hidden: widths of the hidden layers.
        activation: of :class:`.MLP`.
        epochs: longest training.
        batch_size: rows a step.
        lr: learning rate at the start.
        weight_decay: of AdamW.
        validation: share of the rows, the last in Markov time, that validates.
        patience: epochs without improvement before the training stops.
        seed: of weights and batches.
        device: where it trains.

    Example:
        >>> import numpy as np
        >>> x = np.random.default_rng(1).normal(size=(200, 1))
        >>> model = MLPRegressor(hidden=(16,), epochs=60, lr=1e-2).fit(x, x[:, 0] ** 2)
        >>> bool(abs(model.predict(np.array([[1.0]]))[0] - 1) < 0.2)
        True
    """

    def __init__(
        self,
        hidden: Sequence[int] = (64, 64),
        activation: str = "gelu",
        epochs: int = 200,
        batch_size: int = 256,
        lr: float = 1e-3,
        weight_decay: float = 1e-4,
        validation: float = 0.2,
        patience: int = 20,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        self.options = {"hidden": [int(width) for width in hidden], "activation": activation}
        super().__init__(epochs, batch_size, lr, weight_decay, validation, patience, seed, device)
        # wrong options show themselves here, not after the labels are measured
        self._network((1,))

    def _network(self, shape: Sequence[int]) -> MLP:
        return MLP(int(shape[0]), seed=derive_seed(self.seed, "weights"), **self.options)

    def _shape(self) -> Sequence[int]:
        assert self._model is not None
        return (len(self._model.input_center),)

    def _check_shape(self, inputs: Tensor) -> None:
        (expected,) = self._shape()
        if inputs.ndim != 2 or inputs.shape[1] != expected:
            raise InputError(f"fitted to features [n, {expected}], got {list(inputs.shape)}")


class LCNNRegressor(NetworkRegressor):
    """A gauge-invariant L-CNN on links; it predicts on lattices of other extents too.

    Args:
        group: gauge group.
        layers: channels of each layer of :class:`.LCNN`.
        kernel_size: of its transports.
        polyakov: whether Polyakov loops are among its inputs.
        symmetry: ``spatial``, ``hypercubic`` or ``none``.
        c_even: whether Im tr is left out.
        site_hidden: width of the layer at each site.
        head: hidden widths of the MLP at the end.
        epochs: longest training.
        batch_size: fields a step.
        lr: learning rate at the start.
        weight_decay: of AdamW.
        validation: share of the fields, the last in Markov time, that validates.
        patience: epochs without improvement before the training stops.
        seed: of weights and batches.
        device: where it trains.

    Raises:
        InputError: for a field without gauge group, or options out of range.
    """

    takes: ClassVar[str] = "links"

    def __init__(
        self,
        group: FieldSpace,
        layers: Sequence[int] = (4, 4),
        kernel_size: int = 2,
        polyakov: bool = True,
        symmetry: str = "spatial",
        c_even: bool = True,
        site_hidden: int = 0,
        head: Sequence[int] = (16,),
        epochs: int = 200,
        batch_size: int = 32,
        lr: float = 1e-3,
        weight_decay: float = 1e-4,
        validation: float = 0.2,
        patience: int = 20,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        if not isinstance(group, Group):
            raise InputError(f"an L-CNN reads gauge links, got a field of {group.name}")
        self.group = group
        self.options = {
            "group": group.name, "layers": [int(n) for n in layers], "kernel_size": int(kernel_size),
            "polyakov": bool(polyakov), "symmetry": symmetry, "c_even": bool(c_even),
            "site_hidden": int(site_hidden), "head": [int(width) for width in head],
        }
        super().__init__(epochs, batch_size, lr, weight_decay, validation, patience, seed, device)
        self._network((2,))

    @classmethod
    def _from_options(cls, options: dict[str, Any]) -> Self:
        return cls(**{**options, "group": from_name(options["group"])})

    def _network(self, shape: Sequence[int]) -> LCNN:
        options = {**self.options, "group": self.group}
        # the first axis of a field counts its directions
        return LCNN(ndim=int(shape[0]), seed=derive_seed(self.seed, "weights"), **options)

    def _shape(self) -> Sequence[int]:
        assert self._model is not None and isinstance(self._model.network, LCNN)
        return (self._model.network.ndim,)

    def _as_inputs(self, inputs: Any) -> Tensor:
        if not isinstance(inputs, Tensor) or inputs.ndim < 2:
            shape = list(getattr(inputs, "shape", ()))
            raise InputError(
                "an L-CNN takes a tensor of links [n, mu, *lattice, N, N] (U(1): [n, mu, *lattice]), "
                f"got {type(inputs).__name__} {shape}"
            )
        lattice_of(self.group, inputs.shape[1], inputs)
        return inputs.detach()

    def _numbers(self, inputs: Any) -> npt.NDArray[Any]:
        numbers: npt.NDArray[Any] = inputs.cpu().numpy()
        return numbers
