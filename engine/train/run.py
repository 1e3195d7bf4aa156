"""What train.py does: set up the processes, then a new training, the rest of an interrupted one, or a search."""

import argparse

from engine.task import DETECT
from engine.train.resume import given_options, resume
from engine.train.trainer import Trainer
from utils import dist
from utils.extras import load_extra
from utils.general import print_args
from utils.logger import setup_logging
from utils.torch_utils import keep_freed_memory


def train(opt: argparse.Namespace, callbacks=None, task=DETECT) -> argparse.Namespace:
    """Train (or search hyperparameters) with `opt`; returns it with `save_dir`, the run folder."""
    setup_logging(verbose=dist.is_main())
    print_args(given_options(opt, task), prefix=f"{task.scripts}train")
    if opt.evolve:
        return load_extra("evolve.search").evolve(opt, callbacks, task)
    checkpoint = folder = None
    if opt.resume:
        opt, checkpoint, folder = resume(opt, task)
    keep_freed_memory()
    dist.setup()
    try:
        trainer = Trainer(opt, callbacks, resumed=checkpoint, folder=folder, task=task)
        trainer.fit()
    finally:
        dist.cleanup()
    return trainer.opt
