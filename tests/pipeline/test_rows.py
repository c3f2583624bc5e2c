"""Rows from yaml: what they take of the defaults, networks of any layers, starts and observables."""

import pytest
import torch
from small_runs import EXACT, SLICE, changed, composed, small

from lattice_lightning.data.formats import write_configuration
from lattice_lightning.exceptions import InputError
from lattice_lightning.models import Cask, CovNet, LinkMapStack
from lattice_lightning.observables import polyakov_loop
from lattice_lightning.pipeline.build import System, build_method
from lattice_lightning.pipeline.experiment import Experiment
from lattice_lightning.pipeline.rows import expand_rows
from lattice_lightning.samplers import Level

TRAINING = "rows.covnet.training"


def training(given):
    return expand_rows(changed(composed(SLICE), {TRAINING: given}))["covnet"]["training"]


def test_a_row_changes_one_key_of_the_optimizer():
    default = composed(SLICE)["training"]
    assert training({"optimizer": {"lr": 0.1}})["optimizer"] == {**default["optimizer"], "lr": 0.1}
    scheduler = training({"scheduler": {"eta_min": 1e-5}})["scheduler"]
    assert scheduler == {**default["scheduler"], "eta_min": 1e-5}
    assert training({"scheduler": None})["scheduler"] is None
    sgd = {"_target_": "torch.optim.SGD", "momentum": 0.9}
    assert training({"optimizer": sgd})["optimizer"] == sgd, "nothing of Adam"
    assert default == composed(SLICE)["training"], "the defaults stay"


def test_length_of_the_schedule():
    assert training({"epochs": 3})["scheduler"]["T_max"] == 3 * 10
    assert training({"epochs": 3, "scheduler": {"T_max": 7}})["scheduler"]["T_max"] == 7


def test_a_row_integrates_with_its_own_steps():
    """The others, and the stream, keep those of the experiment."""
    level = {"n_steps": 2, "scheme": "leapfrog"}
    experiment = Experiment(
        changed(composed(SLICE), {"rows.linear.integrator": {"levels": [level]}}), None
    )
    default = experiment.system.hmc().levels
    assert experiment.kernels["linear"].levels == (Level(**level),) != default
    assert experiment.kernels["no_network"].levels == experiment.kernels["hmc"].levels == default


LAYERS = [
    {"_target_": "lattice_lightning.models.CovNet", "n_layers": 1, "init_scale": 0.1},
    {"_target_": "lattice_lightning.models.LinkMapStack", "layers": [
        {"_target_": "lattice_lightning.models.Cask", "n_blocks": 1, "s_max": 1, "init_scale": 0.1},
        {"_target_": "lattice_lightning.models.CovNet", "n_layers": 1},
    ]},
]


def stacked(layers):
    network = {"_target_": "lattice_lightning.models.LinkMapStack", "layers": layers}
    config = changed(composed(SLICE), {"rows.cask.effective.network": network})
    system = System(config)
    return system, build_method(system, expand_rows(config)["cask"], "cask").effective.network


def test_a_stack_of_layers():
    system, network = stacked(LAYERS)
    assert isinstance(network, LinkMapStack)
    assert [type(layer) for layer in network.layers] == [CovNet, LinkMapStack]
    assert [type(layer) for layer in network.layers[1].layers] == [Cask, CovNet]
    field = system.start(2, 1)
    with torch.no_grad():
        expected = network.layers[1].transform(network.layers[0].transform(field))
        assert torch.allclose(network.transform(field), expected)
    assert not torch.allclose(expected, field)


@pytest.mark.parametrize(
    ("layers", "message"),
    [([], "at least one layer"), ([{"_target_": "os.mkdir"}], "_target_ must name"), ([5], "_target_ must"),
     ([{"_target_": "lattice_lightning.actions.WilsonGauge"}], "is no LinkMap"),
     ([{**LAYERS[0], "n_layer": 1}], "no argument 'n_layer'; did you mean 'n_layers'")],
    ids=str,
)
def test_layers_that_are_refused(layers, message):
    with pytest.raises(InputError, match=message):
        stacked(layers)


def test_loops_are_measured(rng):
    system = System(composed(EXACT, "observables=loops"))
    values = {}
    for observable in system.observables:
        values.update(observable.measure(system.start(3, 1), rng))
    assert {"plaquette", "wilson_loop_1x2", "wilson_loop_2x2"} < set(values)
    assert any("polyakov" in name for name in values)
    assert all(v.shape == (3,) for v in values.values())


def test_sectors_of_a_start_from_a_file(tmp_path):
    config = small(tmp_path)
    system = System(config)
    links = system.space.cold(system.lattice, 1)
    write_configuration(tmp_path / "c.txt", links)
    config["start"] = {"kind": "file", "path": str(tmp_path / "c.txt"), "sectors": [[1, 0], [0, 0]]}
    field = System(config).start(3, 1)
    signs = polyakov_loop(system.space, system.lattice, field, 0).real.sign().tolist()
    assert signs == [-1, 1, -1]
