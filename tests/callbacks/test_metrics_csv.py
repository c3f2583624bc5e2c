"""metrics.csv: appended to, never deleted, cut where a run resumes."""

import pytest

from lattice_lightning.callbacks import MetricsCsv, read_metrics


def log_epochs(logger, epochs, offset=0.0):
    for epoch in epochs:
        metrics = {"epoch": epoch, f"{logger.row}/loss": epoch + offset, "lr": 0.1}
        logger.log_metrics(metrics, step=10 * epoch)


def values(path, row, metric="loss"):
    entries = (e for e in read_metrics(path) if (e["row"], e["metric"]) == (row, metric))
    return [(e["epoch"], e["value"]) for e in entries]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run" / "metrics.csv"


def test_one_line_a_number(path):
    log_epochs(MetricsCsv(path, "cask"), [2], offset=0.1)
    assert path.read_text().splitlines() == [
        "row,epoch,step,metric,value", "cask,2,20,loss,2.1", "cask,2,20,lr,0.1",
    ]
    entry = {"row": "cask", "epoch": 2, "step": 20, "metric": "loss", "value": 2.1}
    assert read_metrics(path)[0] == entry


@pytest.mark.parametrize("value", [0.1 + 0.2, 1e-300, -1.5e22])
def test_values_survive_bit_for_bit(value, path):
    MetricsCsv(path, "a").log_metrics({"epoch": 0, "x": value}, step=0)
    assert read_metrics(path)[0]["value"] == value


def test_resume_drops_its_own_entries_from_that_epoch_on(path):
    log_epochs(MetricsCsv(path, "covnet"), range(3))
    log_epochs(MetricsCsv(path, "cask"), range(4))
    log_epochs(MetricsCsv(path, "cask", resume_epoch=2), [2, 3], offset=100)
    assert values(path, "cask") == [(0, 0.0), (1, 1.0), (2, 102.0), (3, 103.0)]
    assert values(path, "covnet") == [(0, 0.0), (1, 1.0), (2, 2.0)]


def test_a_row_that_begins_anew_keeps_the_other_rows(path):
    log_epochs(MetricsCsv(path, "covnet"), range(2))
    log_epochs(MetricsCsv(path, "cask"), range(2))
    MetricsCsv(path, "cask")
    assert values(path, "cask") == [] and len(values(path, "covnet")) == 2


@pytest.mark.parametrize("cut", range(1, 17))
def test_half_written_last_line_is_left_out(cut, path):
    """Cut anywhere, even where what is left of the value is a number."""
    logger = MetricsCsv(path, "a")
    logger.log_metrics({"epoch": 0, "x": 1.0}, step=0)
    logger.log_metrics({"epoch": 0, "x": 0.12345}, step=1)
    path.write_bytes(path.read_bytes()[:-cut])
    assert [e["value"] for e in read_metrics(path)] == [1.0]


def test_resume_after_a_half_written_line_begins_on_a_new_one(path):
    log_epochs(MetricsCsv(path, "a"), range(3))
    path.write_bytes(path.read_bytes()[:-9])
    log_epochs(MetricsCsv(path, "a", resume_epoch=2), [2])
    assert values(path, "a") == [(0, 0.0), (1, 1.0), (2, 2.0)]
    assert len(values(path, "a", "lr")) == 3


def test_no_partial_file_is_left(path):
    log_epochs(MetricsCsv(path, "a"), range(2))
    MetricsCsv(path, "a", resume_epoch=1)
    assert [p.name for p in path.parent.iterdir()] == ["metrics.csv"]
