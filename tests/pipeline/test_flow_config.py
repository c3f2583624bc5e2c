"""Bad configs of flows: one line that says what to do, before a run folder exists; never a traceback."""

import pytest
from omegaconf import OmegaConf
from small_flows import ROW, flow_config
from small_runs import changed, refused

from lattice_lightning.pipeline.build import System
from lattice_lightning.pipeline.experiment import Experiment
from lattice_lightning.pipeline.flows import build_model
from lattice_lightning.pipeline.rows import expand_rows

R = f"rows.{ROW}"
MODELS = "lattice_lightning.models"
GAUGE = {"gauge": {"_target_": "lattice_lightning.actions.WilsonGauge", "beta": 2.0}}
PLAQUETTE = {"plaquette": {"_target_": "lattice_lightning.observables.Plaquette"}}
POINT = {"A": {"lattice": [4, 4]}}

CASES = [
    # rows
    ({f"{R}.flow": None}, "independence needs `prior` and `flow`.*got none of them"),
    ({f"{R}.prior": None}, "`prior` and `flow` belong together"),
    ({f"{R}.flow_of": "hmc"}, "got flow and flow_of"),
    ({"rows.b": {"sampler": "alternating", "flow_of": "tutoral"}}, "flow_of names 'tutoral'; did you mean 'tutorial'"),
    ({"rows.b": {"sampler": "latent_hmc", "flow_of": "hmc"}}, "flow_of names 'hmc'; rows with a flow: tutorial"),
    ({"rows.b": {"sampler": "latent_hmc", "flow_of": ROW, "prior": {}, "training": {"ema": 0.9}}}, "takes a trained flow"),
    ({"rows.b": {"sampler": "alternating", "flow_of": ROW, "n_hmc": 0}}, "n_hmc must be an integer of at least 1"),
    ({"rows.b": {"sampler": "independence", "flow_of": ROW, "n_hmc": 1}}, r"row 'b' has no key \['n_hmc'\]"),
    ({"rows.hmc.flow_of": ROW}, r"row 'hmc' has no key \['flow_of'\]"),
    ({"rows.annealed.prior": None}, "annealing starts from"),
    ({"rows.annealed.flow_of": ROW}, "annealing starts from"),
    ({"rows.annealed.flow": {"_target_": f"{MODELS}.RealNVP"}}, "annealing trains no flow"),
    ({"rows.annealed.annealing": 5}, "annealing must be like"),
    ({"rows.annealed.annealing.n_step": 5}, "no argument 'n_step'; did you mean 'n_steps'"),
    ({"rows.annealed.annealing.n_steps": 0}, "at least 1, got 0"),
    ({f"{R}.checkpoint": "nowhere.pt"}, "got flow and checkpoint"),
    ({R: {"sampler": "independence", "checkpoint": "nowhere.pt"}}, "no checkpoint at nowhere.pt"),
    ({f"{R}.warm_start": "nowhere.pt"}, "no checkpoint at nowhere.pt"),
    # models
    ({f"{R}.flow.n_layer": 3}, "RealNVP has no argument 'n_layer'; did you mean 'n_layers'"),
    ({f"{R}.flow._target_": f"{MODELS}.RealNVPs"}, "RealNVPs' does not exist"),
    ({f"{R}.flow._target_": "os.mkdir"}, "_target_ must name something of"),
    ({f"{R}.flow._target_": f"{MODELS}.CovNet"}, "is no Flow, which is expected"),
    ({f"{R}.flow": {"layers": []}}, "at least one layer"),
    ({f"{R}.flow": {"n_layers": 3}}, "flow needs `_target_` or `layers` alone"),
    ({f"{R}.flow": "RealNVP"}, "flow must be like"),
    ({f"{R}.prior._target_": f"{MODELS}.HaarPrior"}, "Haar prior is a density of links"),
    ({f"{R}.prior.sigma": -1}, "sigma=-1"),
    ({"lattice": [7, 8]}, "checkerboard mask needs even extents"),
    ({"group": "U(1)", "action": GAUGE, "observables": PLAQUETTE}, r"real scalars?, got .*U\(1\)"),
    # training
    ({f"{R}.training.epochs": 3}, "ReverseKL has no argument 'epochs'; did you mean 'n_epochs'"),
    ({f"{R}.training._target_": "lattice_lightning.methods.ActionRegression"}, "is no FlowMethod"),
    ({f"{R}.training": 5}, "training must be like"),
    ({"flow_training._target_": "lattice_lightning.methods.ReverseLK"}, "does not exist"),
    ({"flow_training.estimator": "adjoint"}, "unknown estimator 'adjoint'"),
    ({"flow_training.optimizer.lr": -1}, "(?i)invalid learning rate"),
    ({"flow_training.optimizer.lrr": 1}, "Adam has no argument 'lrr'; did you mean 'lr'"),
    ({"flow_training.precision": "16"}, "precision of the draws"),
    ({f"{R}.training.batch_size": 1}, "batch_size >= 2"),
    ({f"{R}.training.n_epochs": 0}, "n_epochs=0"),
    ({"flow_training.forward_kl": {"weight": 1.0, "fields": "nowhere"}}, "nowhere is not an ensemble"),
    ({"flow_training_limits": {"n_epocs": 1}}, "flow_training_limits has no key"),
    ({f"{R}.warm_start": "w.pt", f"{R}.flow": None, f"{R}.prior": None, f"{R}.training": None,
      f"{R}.checkpoint": "f.pt"}, "warm_start would do nothing"),
    # draws, exact values
    ({"importance.n": 1}, "importance.n must be an integer of at least 2"),
    ({"importance.batch_size": 0.5}, "importance.batch_size must be an integer"),
    ({"importance.beside_training.every_n_epochs": 0}, "every_n_epochs must be an integer of at least 1"),
    ({"exact": "torus"}, "needs the Wilson gauge action in two dimensions, got Phi4"),
    ({"exact": "free"}, r"exact=free needs phi\^4 theory at lam = 0"),
    ({"exact": "known"}, "exact must be torus, free or null, got 'known'"),
    # points
    ({"points": [1]}, "points must be like"),
    ({"points": {"a/b": {}}}, "the name of a point 'a/b' cannot be a file name"),
    ({"points": {"A": {"latice": [4, 4]}}}, "point 'A' cannot set 'latice'; did you mean 'lattice'"),
    ({"points": {"A": {"trainer": {}}}}, "point 'A' cannot set 'trainer'"),
    ({"points": {**POINT, "B": {"lattice": [4, 5]}}}, "point 'B': .*even extents"),
    ({"points": {"A": {"rows": {"b": {"sampler": "latent_hmc", "flow_of": f"Z/{ROW}"}}}}},
     "row 'b' of point 'A': flow_of names Z/tutorial; flows trained at earlier points: none"),
    ({"points": {**POINT, "B": {"rows": {"b": {"sampler": "independence", "flow_of": "A/hmc"}}}}},
     "flow_of names A/hmc; flows trained at earlier points: A/tutorial"),
    ({"points": {**POINT, "B": {"lattice": [5, 5], "rows": {
        ROW: None, "b": {"sampler": "independence", "flow_of": f"A/{ROW}"}}}}}, "point 'B': .*even extents"),
]


@pytest.mark.parametrize(
    ("changes", "message"), CASES, ids=[str(changes)[:70] for changes, _ in CASES]
)
def test_refused_before_a_folder(changes, message, tmp_path, monkeypatch, capsys):
    config = OmegaConf.create(changed(flow_config(), changes))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lattice_lightning.pipeline.compose.compose_config", lambda overrides: config)
    refused(["train"], message, tmp_path, capsys)


def row_of(changes):
    return expand_rows(changed(flow_config(), changes))[ROW]


def test_what_a_row_takes_of_the_defaults():
    default = flow_config()["flow_training"]
    training = row_of({f"{R}.training": {"batch_size": 7, "optimizer": {"lr": 0.1}}})["training"]
    assert training == {**default, "batch_size": 7, "optimizer": {**default["optimizer"], "lr": 0.1}}
    other = {"_target_": "lattice_lightning.methods.ContinuityRegression", "n_epochs": 3}
    assert row_of({f"{R}.training": other})["training"] == other, "another method takes nothing"
    limited = row_of({"flow_training_limits": {"n_epochs": 2}, f"{R}.training": {"n_epochs": 50, "batch_size": 7}})
    assert (limited["training"]["n_epochs"], limited["training"]["batch_size"]) == (2, 7)
    limited = row_of({"flow_training_limits": {"n_epochs": 2}, f"{R}.training": {"_target_": other["_target_"]}})
    assert limited["training"]["n_epochs"] == 2, "the method's own default is limited too"


def test_length_of_the_schedule_follows_from_the_training():
    schedule = {"_target_": "torch.optim.lr_scheduler.CosineAnnealingLR"}
    config = changed(flow_config(), {f"{R}.training.scheduler": schedule})
    method = Experiment(config, None).flows[ROW]
    assert method.configure_optimizers()["lr_scheduler"]["scheduler"].T_max == 50 * 50
    config = changed(config, {f"{R}.training.scheduler": {**schedule, "T_max": 9}})
    assert Experiment(config, None).flows[ROW].configure_optimizers()["lr_scheduler"]["scheduler"].T_max == 9


def test_layers_and_their_seed():
    """The same seed gives the same weights, whatever was drawn before; layers may be listed."""
    layer = {"_target_": f"{MODELS}.RealNVP", "n_layers": 2}
    system = System(flow_config())
    row = row_of({f"{R}.flow": {"layers": [layer, {"_target_": f"{MODELS}.Scaling"}]}})
    models = [build_model(system, row, ROW, seed) for seed in (1, 1, 2)]
    states = [torch_state(model) for model in models]
    assert states[0] == states[1] != states[2]
    assert [type(part).__name__ for part in models[0].flow.layers] == ["RealNVP", "Scaling"]


def torch_state(model):
    return {key: tensor.tolist() for key, tensor in model.state_dict().items()}


def test_a_method_in_closed_form():
    """Regression of a continuous flow, with a path of actions from config."""
    training = {"_target_": "lattice_lightning.methods.ContinuityRegression", "n_chains": 4, "path": {
        "_target_": "lattice_lightning.methods.ScaledPath", "power": 2.0}}
    config = changed(flow_config(), {
        "lattice": [4, 4], "group": "U(1)", "action": GAUGE, "observables": PLAQUETTE, "exact": "torus",
        "rows": {"loops": {
            "sampler": "independence", "prior": {"_target_": f"{MODELS}.HaarPrior"},
            "flow": {"_target_": f"{MODELS}.ContinuousFlow", "n_nodes": 3, "basis": {
                "_target_": f"{MODELS}.LoopVelocity", "degree": 1, "pair_degree": 0}},
            "training": training,
        }},
    })
    experiment = Experiment(config, None)
    method = experiment.flows["loops"]
    assert method.path.power == 2.0 and method.path.target is experiment.system.target
    assert experiment.trained == ["loops"]
