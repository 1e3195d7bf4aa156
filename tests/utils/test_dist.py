"""utils.dist alone, and in two real processes joined by gloo."""

import os
import socket
import subprocess
import sys

import pytest
from conftest import ROOT

from utils import dist

VARIABLES = ("LOCAL_RANK", "RANK", "WORLD_SIZE")


@pytest.fixture
def single(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def test_a_single_process(single):
    assert (dist.local_rank(), dist.rank(), dist.world_size(), dist.is_main()) == (-1, -1, 1, True)
    dist.setup()
    assert not dist.is_distributed()
    dist.barrier()
    with dist.main_first():
        pass
    value = {"a": 1}
    assert dist.broadcast_object(value) is value
    dist.cleanup()


@pytest.mark.parametrize("rank, main", [("0", True), ("1", False)])
def test_rank_variables(single, monkeypatch, rank, main):
    for name, value in zip(VARIABLES, (rank, rank, "2")):
        monkeypatch.setenv(name, value)
    assert (dist.local_rank(), dist.rank(), dist.world_size(), dist.is_main()) == (int(rank), int(rank), 2, main)


WORKER = """
import pathlib, sys, time
from utils import dist

folder = pathlib.Path(sys.argv[1])
dist.setup()
assert dist.is_distributed()
with dist.main_first():
    if dist.is_main():
        time.sleep(0.3)  # the other one would be first if it did not wait
    with open(folder / "order.txt", "a") as file:
        file.write(f"{dist.rank()} ")
assert dist.broadcast_object({"from": dist.rank()}) == {"from": 0}
dist.barrier()
dist.cleanup()
assert not dist.is_distributed()
"""


def test_two_processes(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    environment["CUDA_VISIBLE_DEVICES"] = ""
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(tmp_path)],
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (1, 0)
    ]
    errors = [worker.communicate(timeout=60)[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], errors
    assert (tmp_path / "order.txt").read_text() == "0 1 "
