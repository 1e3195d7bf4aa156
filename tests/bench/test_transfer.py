"""python -m bench transfer: one real training of seconds, going on after an interruption, and the table's figures."""

import subprocess
import sys

import numpy as np
import pytest
import yaml

from bench import transfer
from bench.transfer import Case, Score
from tests.conftest import ROOT


def test_a_training_becomes_a_row_and_is_not_repeated(tmp_path, tiny_dataset, tiny_model_cfg):
    model = tmp_path / "tiny.yaml"
    model.write_text(yaml.safe_dump(tiny_model_cfg))
    command = [sys.executable, "-m", "bench", "transfer", "--sets", str(tiny_dataset), "--starts", str(model)]
    command += ["--pictures", "3", "--budgets", "8s", "--seeds", "0", "--img", "64", "--folder", str(tmp_path / "out")]
    outputs = [subprocess.run(command, cwd=ROOT, capture_output=True, text=True) for _ in range(2)]
    assert [done.returncode for done in outputs] == [0, 0], outputs[0].stderr[-2000:]
    assert [": training\n" in done.stdout for done in outputs] == [True, False]
    (case, score), = transfer.read(tmp_path / "out" / "transfer.csv").items()  # fmt: skip
    assert case == Case(str(model), str(tiny_dataset), "3", "8s", 0) and 0 <= score.AP <= score.AP50 <= 1
    listed = (tmp_path / "out" / "data" / f"{tiny_dataset.stem}-3-0.txt").read_text().splitlines()
    assert len(listed) == 3 and all("train" in line for line in listed)
    assert "AP (95 % interval)" in outputs[1].stdout and "| tiny" not in outputs[1].stdout
    assert f"| {model} | 3 | 8s | 1 |" in (tmp_path / "out" / "transfer.md").read_text()
    assert (tmp_path / "out" / "transfer.png").stat().st_size > 1000


def test_a_failed_training_ends_it(tmp_path, tiny_dataset, capfd):
    options = [
        "--sets",
        str(tiny_dataset),
        "--starts",
        "none.pt",
        "--pictures",
        "all",
        "--budgets",
        "8s",
        "--seeds",
        "0",
    ]
    assert transfer.main(transfer.parse_opt([*options, "--folder", str(tmp_path / "out")])) == 1
    assert "none.pt" in capfd.readouterr().err and not (tmp_path / "out" / "transfer.csv").exists()


@pytest.mark.parametrize(
    ("start", "options"),
    [
        ("nothing", ["--cfg", "models/yolov5_edgevit.yaml", "--weights", "none"]),
        ("yolov5n", ["--weights", "yolov5n.pt"]),
        ("starts/{set}.pt", ["--weights", "starts/bccd.pt"]),
        ("models/yolov5n.yaml", ["--cfg", str(ROOT / "models/yolov5n.yaml"), "--weights", "none"]),
    ],
)
def test_options_of_a_start(start, options, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert transfer.arguments(Case(start, "data/bccd.yaml", "25", "2m", 0)) == options


def test_the_best_epoch_counts(tmp_path):
    ap = [0.1, 0.35, 0.4, 0.38]
    rows = [f"{i},{value + 0.2},{value},{10 * i}" for i, value in enumerate(ap)]
    file = tmp_path / "results.csv"
    file.write_text("\n".join(["epoch,metrics/mAP_0.5,metrics/mAP_0.5:0.95,time", *rows]) + "\n")
    assert transfer.score_of(file) == pytest.approx((0.6, 0.4, 0.75))


def test_the_table():
    done = {Case("a", f"{name}.yaml", "25", "2m", seed): Score(ap + 0.2, ap, 0.5)
            for name, seed, ap in [("x", 0, 0.2), ("x", 1, 0.4), ("y", 0, 0.5)]}  # fmt: skip
    head, row = transfer.table(done)
    assert row == ["a", "25", "2m", "3", "0.600", "0.400 (0.300 to 0.500)", "50%", "0.500 / 0.300", "0.700 / 0.500"]
    assert len(head) == len(row) and transfer.markdown(done).count("\n") == 5


def test_the_interval_of_many_values():
    values = np.random.default_rng(1).normal(0.5, 0.1, 400)
    mean, low, high = transfer.mean_and_interval(values)
    assert mean == pytest.approx(values.mean()) and high - low == pytest.approx(2 * 1.96 * 0.1 / 20, rel=0.15)


@pytest.mark.parametrize("count", ["0", "-3", "few"])
def test_a_wrong_number_of_pictures(count, capsys):
    with pytest.raises(SystemExit):
        transfer.parse_opt(["--sets", "a.yaml", f"--pictures={count}"])
    assert f"expected 'all' or whole numbers, found '{count}'" in capsys.readouterr().err
