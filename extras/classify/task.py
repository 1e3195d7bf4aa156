"""Classification as a task: its data, scores and pictures for the engine's training and validation."""

from dataclasses import dataclass

import numpy as np

from engine.options.flags import CLASSIFY_DEFAULTS
from engine.task import Task
from engine.val.evaluator import PLOTTED_BATCHES, Evaluator
from extras.classify.data import check_classification_dataset, create_classification_dataloader
from extras.classify.hyp import load_classify_hyp
from extras.classify.loss import ClassificationLoss
from extras.classify.metrics import ClassificationMetrics, ClassificationResult
from extras.classify.model import ClassificationModel, load_classifier
from utils import dist
from utils.logger import LOGGER

HEADER = ("%22s" + "%11s" * 3) % ("Class", "Images", "top1", "top5")
ROW = "%22s" + "%11i" + "%11.3g" * 2


@dataclass
class ClassificationEvalResult(ClassificationResult):
    """The scores, the loss and the times of one validation."""

    losses: tuple = (0.0,)  # mean over the batches
    speed_ms: tuple = (0.0, 0.0, 0.0)  # per image: pre-process, inference, post-process


class ClassificationEvaluator(Evaluator):
    """Top-1 and top-5 accuracy. Targets are class numbers [B]."""

    header = HEADER
    loss_names = ("loss",)

    def __init__(self, *args):
        super().__init__(*args)
        self.metrics = ClassificationMetrics(len(self.names))

    def step(self, batch_i, images, targets, paths, shapes) -> None:
        pre_process, inference, post_process = self.timers
        with pre_process:
            inputs, targets = self.to_input(images), targets.to(self.device)
        with inference, self.precision():
            logits = self.model(inputs)
        self.add_losses(logits, targets)
        with post_process:
            self.metrics.update(logits.float().cpu(), targets.cpu(), paths)
        if self.options.plots and batch_i < PLOTTED_BATCHES:
            self.plot_batch(batch_i, images, targets, logits)
        self.fire("on_val_batch_end", batch_i, images, targets, paths, shapes, logits)

    def plot_batch(self, batch_i, images, targets, logits) -> None:
        """Draw val_batchN_labels.jpg and val_batchN_pred.jpg."""
        from extras.classify.plots import plot_class_images

        for found, kind in ((None, "labels"), (logits.float().softmax(1), "pred")):
            file = self.options.save_dir / f"val_batch{batch_i}_{kind}.jpg"
            plot_class_images(images, targets, file, self.names, found)

    def compute(self, losses: tuple, speed_ms: tuple) -> ClassificationEvalResult:
        return ClassificationEvalResult(**vars(self.metrics.compute()), losses=losses, speed_ms=speed_ms)

    def report(self, result: ClassificationEvalResult) -> None:
        LOGGER.info(ROW % ("all", result.images, result.top1, result.top5))
        if self.options.verbose:
            for cls, *row in zip(range(len(self.names)), result.counts, result.top1_per_class, result.top5_per_class):
                LOGGER.info(ROW % (self.names[cls], *row))

    def plot(self, result: ClassificationEvalResult) -> None:
        from extras.classify.plots import plot_classification_result

        plot_classification_result(result, self.names, self.options.save_dir)

    def close(self, result: ClassificationEvalResult) -> None:
        self.fire("on_val_end", result.counts, result.top1_per_class, result.top5_per_class, result.matrix)


class Classification(Task):
    name = "classify"
    script = "classify/train.py"
    model_class = ClassificationModel
    evaluator = ClassificationEvaluator
    metric_names = ("accuracy_top1", "accuracy_top5")
    defaults = CLASSIFY_DEFAULTS

    def read_data(self, opt, required=("train", "val")) -> dict:
        return check_classification_dataset(opt.data, required=required)

    def read_hyp(self, opt, source=None) -> dict:
        hyp = load_classify_hyp(source or opt.hyp)
        given = {"lr0": opt.lr0, "weight_decay": opt.decay, "label_smoothing": opt.label_smoothing}
        hyp |= {key: value for key, value in given.items() if value is not None}
        return load_classify_hyp(hyp)

    def load_start(self, opt):
        """None: what --model names may be no checkpoint, so build_model() opens it."""

    def build_model(self, opt, hyp, data, start=None, resumed=None):
        if resumed is not None:
            return ClassificationModel(resumed.yaml, nc=data["nc"], load_backbones=False)
        options = {"pretrained": opt.pretrained, "cutoff": opt.cutoff, "dropout": opt.dropout}
        return load_classifier(opt.model, data["nc"], **options)

    def build_loaders(self, opt, hyp, data, stride):
        per_rank = opt.batch_size // dist.world_size()
        with dist.main_first():
            loader = self._loader(opt, data, "train", per_rank, hyp=hyp, augment=True, shuffle=True, rank=dist.rank())
        if len(set(loader.dataset.classes.tolist())) < 2:
            found = f"all {len(loader.dataset)} images are of the class {data['names'][int(loader.dataset.classes[0])]}"
            raise ValueError(f"{data['train']}: nothing to train: {found}")
        return loader, self._loader(opt, data, "val", per_rank * 2, hyp=hyp) if dist.is_main() else None

    def eval_loader(self, opt, data, model, rect):
        return self._loader(opt, data, opt.split, opt.batch_size)

    @staticmethod
    def _loader(opt, data, split, batch_size, **options):
        shared = {"names": data["names"], "folders": data["folders"], "workers": opt.workers, "prefix": f"{split}: "}
        shared |= {"cache": opt.cache, "seed": opt.seed}
        loader, _ = create_classification_dataloader(data[split], opt.imgsz, batch_size, **shared, **options)
        return loader

    def labels(self, dataset) -> np.ndarray:
        """Return the class numbers [n, 1]."""
        return np.asarray(dataset.classes)[:, None]

    def criterion(self, model, hyp, imgsz):
        return ClassificationLoss(hyp)

    def figures(self, result) -> list:
        return [float(result.top1), float(result.top5)]

    def fitness(self, figures) -> float:
        return sum(figures[:2]) / 2

    def plot_batch(self, images, targets, paths, file, names) -> None:
        from extras.classify.plots import plot_class_images

        plot_class_images(images, targets, file, names)


CLASSIFY = Classification()
