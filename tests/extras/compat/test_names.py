"""Every name that scripts for YOLOv5 v5 to v7 import is there, and does what they call it for, or says what to use."""

import importlib
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from extras.compat import names
from extras.compat.names import MODULES, ONLY_IN, REFUSED, TABLE, owners
from tests.conftest import ROOT

BOX = torch.tensor([[10.0, 20, 30, 60]])
IMAGE = np.random.default_rng(0).integers(0, 255, (32, 48, 3), np.uint8)
LABELS = np.array([[0, 4, 4, 20, 20], [1, 30, 8, 40, 30]], np.float32)
SQUARE = np.float32([[2, 2], [12, 2], [12, 12], [2, 12]])
TINY = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
PREDICTIONS = torch.cat([torch.tensor([[[20.0, 30, 10, 10, 0.9, 0.8, 0.1]]]), torch.zeros(1, 3, 7)], 1)
DETECTIONS = torch.tensor([[10.0, 20, 30, 60, 0.9, 1]])


def is_the_box(found, expected):
    return torch.allclose(torch.as_tensor(found, dtype=torch.float32).flatten(), torch.tensor(expected).float())


def raises(error, call, *args, **kwargs):
    with pytest.raises(error):
        call(*args, **kwargs)
    return True


def in_thread(threaded, join_threads):
    threading.Thread(target=threading.Event().wait, daemon=True).start()  # as tqdm leaves one
    pool = ThreadPoolExecutor(1)
    pool.submit(int).result()  # Its thread waits for more work.
    done = []
    threaded(done.append)(1)
    join_threads()
    pool.shutdown()
    return done == [1]


def slept_too_long(Timeout):
    with Timeout(1):
        time.sleep(3)
        return False
    return True


def swallowed(TryExcept):
    with TryExcept("no"):
        raise ValueError("bad")
    return True


def file_of(folder, name="a.txt", text="x"):
    (folder / name).write_text(text)
    return folder / name


def picture(folder, name="a.png"):
    cv2.imwrite(str(folder / name), IMAGE)
    return folder / name


def autosplits(call, folder):
    (folder / "images").mkdir()
    for i in range(20):
        picture(folder / "images", f"{i}.png")
    call(folder / "images", weights=(0.5, 0.5, 0.0))
    lines = [(folder / f"autosplit_{split}.txt").read_text().splitlines() for split in ("train", "val", "test")]
    return sum(map(len, lines)) == 20 and not lines[2] and lines[0][0].startswith("./images/")


def verified(call, folder):
    label = file_of(folder, "a.txt", "1 0.5 0.5 0.2 0.2\n")
    file, labels, size, _, missing, found, empty, corrupt, _ = call((str(picture(folder)), str(label), ""))
    return file and labels.shape == (1, 5) and size == (48, 32) and (missing, found, empty, corrupt) == (0, 1, 0, 0)


def zipped(call, folder):
    import zipfile

    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        archive.writestr("b.txt", "b")
        archive.writestr("__MACOSX/c.txt", "c")
    call(folder / "a.zip")
    return (folder / "b.txt").exists() and not (folder / "__MACOSX").exists()


def in_place(draw):
    image = np.zeros((40, 60, 3), np.uint8)
    draw(image)
    return image.any()


def same_in_place(found, image):
    return found is None or image.any()


def classified(apply_classifier):
    """A second model that always says class 1 leaves the boxes of class 1."""
    boxes = [torch.tensor([[2.0, 2, 20, 20, 0.9, 0], [4, 4, 30, 30, 0.8, 1]])]
    model = lambda squares: torch.tensor([[0.0, 1.0]]).repeat(len(squares), 1)  # noqa: E731
    left = apply_classifier(boxes, model, torch.zeros(1, 3, 32, 48), [IMAGE])
    return len(left[0]) == 1 and left[0][0, 5] == 1


def first_of(items):
    return next(iter(items))


def refined(ap_per_class, **more):
    """Two classes; the first found wholly, of the second one of two targets."""
    tp = np.ones((2, 10), bool)
    *_, p, r, f1, ap, classes = ap_per_class(tp, np.array([0.9, 0.8]), np.array([0, 1]), np.array([0, 1, 1]), **more)
    return classes.tolist() == [0, 1] and r[0] == 1 and r[1] == 0.5 and p[1] == 1 and ap.shape == (2, 10)


def boxes_and_masks(call):
    tp = np.ones((1, 10), bool)
    found = call(~tp, tp, np.array([0.9]), np.array([0]), np.array([0]))
    return found["boxes"]["ap"][0, 0] > 0.9 > 0.1 > found["masks"]["ap"][0, 0]


class HalfRate:
    """A schedule: the rate is halved at every step."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    def step(self):
        self.optimizer.param_groups[0]["lr"] /= 2


def drawn_rates(call, folder):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 1.0)
    call(optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5), 3, folder)
    return (folder / "LR.png").exists()


def drawn_results(call, folder):
    call(file_of(folder, "results.csv", "epoch, train/box_loss\n0, 1\n1, 0.5\n"))
    return (folder / "results.png").exists()


def drawn_masks(call, folder):
    targets = np.array([[0, 1, 0.5, 0.5, 0.4, 0.4]], np.float32)
    call(torch.rand(1, 3, 32, 48), targets, np.ones((1, 8, 12), np.uint8), fname=folder / "m.jpg")
    return (folder / "m.jpg").exists()


def is_layer(cls):
    return isinstance(cls, type) and issubclass(cls, nn.Module)


def written(call, folder):
    call(DETECTIONS, True, (100, 200), folder / "a.txt")
    call(DETECTIONS, False, (100, 200), folder / "a.txt")
    return [len(row.split()) for row in (folder / "a.txt").read_text().splitlines()] == [6, 5]


def listed(call):
    found = []
    call(DETECTIONS, found, Path("7.jpg"), [5, 6])
    return found[0]["image_id"] == 7 and found[0]["category_id"] == 6 and found[0]["bbox"] == [10, 20, 20, 40]


def traced(log_tensorboard_graph):
    graphs = []
    writer = SimpleNamespace(add_graph=lambda graph, images: graphs.append(graph))
    log_tensorboard_graph(writer, TINY, imgsz=(8, 8))
    return graphs[0](torch.zeros(1, 3, 8, 8)).shape == TINY(torch.zeros(1, 3, 8, 8)).shape


def pruned(prune):
    model = nn.Conv2d(3, 4, 3)
    prune(model, 0.5)
    return 0.4 < float((model.weight == 0).float().mean()) < 0.6


# name -> (what it is, an empty folder) -> whether it works as its callers expect
CALLS = {
    # boxes
    "clip_boxes clip_coords": lambda f, d: is_the_box(f(BOX.clone(), (50, 20)), [10, 20, 20, 50]),
    "scale_boxes scale_coords": lambda f, d: is_the_box(f((64, 64), BOX.clone(), (128, 128)), [20, 40, 60, 120]),
    "box_iou": lambda f, d: f(BOX, BOX).shape == (1, 1),
    "bbox_iou": lambda f, d: f(BOX, BOX).item() > 0.99,
    "bbox_ioa": lambda f, d: f(BOX[0].numpy(), BOX.numpy())[0] > 0.99,
    "wh_iou": lambda f, d: f(BOX[:, 2:], BOX[:, 2:]).item() > 0.99,
    "xyn2xy": lambda f, d: f(SQUARE / 16, 16, 16).max() == 12,
    "xywh2xyxy": lambda f, d: is_the_box(f(BOX), [-5, -10, 25, 50]),
    "xyxy2xywh": lambda f, d: is_the_box(f(BOX), [20, 40, 20, 40]),
    "xywhn2xyxy": lambda f, d: is_the_box(f(BOX / 100, 100, 100), [-5, -10, 25, 50]),
    "xyxy2xywhn": lambda f, d: is_the_box(f(BOX, 100, 100), [0.2, 0.4, 0.2, 0.4]),
    "segments2boxes": lambda f, d: is_the_box(f([SQUARE]), [7, 7, 10, 10]),
    "clip_segments": lambda f, d: f(SQUARE.copy(), (5, 5)).max() == 5,
    "scale_segments": lambda f, d: f((16, 16), SQUARE.copy(), (32, 32)).max() == 24,
    "fitness": lambda f, d: f(np.array([[0, 0, 1.0, 1, 0, 0, 1, 1]])).item() in (1, 2),
    # checks
    "is_ascii": lambda f, d: f("abc") and not f("é"),
    "is_chinese": lambda f, d: f("人") and not f("abc"),
    "is_colab is_kaggle is_pip is_jupyter is_notebook": lambda f, d: f() is False,
    "is_docker isdocker": lambda f, d: isinstance(f(), bool),
    "is_writeable": lambda f, d: f(d),
    "check_online": lambda f, d: callable(f),  # it asks the network
    "check_git_status": lambda f, d: f() is None,
    "check_git_info": lambda f, d: set(f(d)) == {"remote", "branch", "commit"} and f(d)["commit"] is None,
    "git_describe": lambda f, d: f(d) == "",
    "check_python": lambda f, d: f("3.7.0") and raises(ValueError, f, "99.0"),
    "check_version": lambda f, d: f("1.10.0", "1.9") and not f("1.10", "1.9", pinned=True) and f("2.0", "2.0.0"),
    "check_requirements": lambda f, d: f(exclude=["x"]) and f("numpy>=1.0") and not f(["no-such-package-here>=1"]),
    "check_imshow": lambda f, d: f() in (True, False),
    "check_suffix": lambda f, d: f("a.pt", ".pt") is None and raises(ValueError, f, ["a.yaml"], (".pt",)),
    "check_font": lambda f, d: f() is None,
    "check_amp": lambda f, d: f(TINY) is False,
    "date_modified file_date": lambda f, d: f(file_of(d)).count("-") == 2,
    "file_age": lambda f, d: f(file_of(d)) == 0,
    # constants
    "FILE": lambda f, d: f == ROOT / "utils" / "general.py",
    "NUM_THREADS WORLD_SIZE NCOLS": lambda f, d: f >= 1,
    "RANK LOCAL_RANK": lambda f, d: f == -1,
    "DATASETS_DIR CONFIG_DIR": lambda f, d: isinstance(f, Path),
    "AUTOINSTALL": lambda f, d: f is False,
    "VERBOSE PIN_MEMORY": lambda f, d: f is True,
    "TQDM_BAR_FORMAT BAR_FORMAT FONT LOGGING_NAME HELP_URL help_url": lambda f, d: len(f) > 3,
    "GIT_INFO": lambda f, d: "commit" in f,
    "LOGGERS": lambda f, d: "csv" in f,
    "LOGGER": lambda f, d: f.name,
    "IMAGENET_MEAN IMAGENET_STD": lambda f, d: len(f) == 3,
    "IMG_FORMATS img_formats IMAGE_EXTENSIONS": lambda f, d: "a.jpg".endswith(f),
    "VID_FORMATS vid_formats": lambda f, d: "a.mp4".endswith(f) and len(f + ("jpg",)) > 1,
    "KEYS": lambda f, d: f[0] == "train/box_loss" and "metrics/mAP_0.5:0.95(M)" in f,
    "BEST_KEYS": lambda f, d: f[-1] == "best/mAP_0.5:0.95(M)",
    # tools
    "set_logging": lambda f, d: f() is None and f(-1) is None,
    "user_config_dir": lambda f, d: isinstance(f(), Path),
    "get_default_args": lambda f, d: f(lambda a, b=1: 0) == {"b": 1},
    "get_latest_run": lambda f, d: f(d) == "" and f(file_of(d, "last.pt").parent).endswith("last.pt"),
    "methods": lambda f, d: "register_action" in f(importlib.import_module("utils.callbacks").Callbacks()),
    "clean_str": lambda f, d: f("a|b@c") == "a_b_c",
    "emojis": lambda f, d: f("ab") == "ab",
    "TryExcept": lambda f, d: swallowed(f),
    "try_except": lambda f, d: f(lambda: 1 / 0)() is None,
    "threaded": lambda f, d: in_thread(f, names.find("utils.general", "join_threads")),
    "join_threads": lambda f, d: f() is None,
    "notebook_init": lambda f, d: f(verbose=False) in (None, sys.modules.get("IPython.display")),
    "Timeout": lambda f, d: slept_too_long(f),
    "WorkingDirectory": lambda f, d: f(d)(Path.cwd)() == d.resolve() and Path.cwd() != d,
    "imread": lambda f, d: (f(picture(d)) == IMAGE).all() and f(d / "none.png") is None,
    "imwrite": lambda f, d: f(d / "b.png", IMAGE) and not f(d / "b.xyz", IMAGE),
    "imshow imshow_": lambda f, d: callable(f),  # it opens a window
    "url2file": lambda f, d: f("https://a.b/c%20d.jpg?x=1") == "c d.jpg",
    "unzip_file": zipped,
    "yaml_load": lambda f, d: f(file_of(d, "a.yaml", "a: 1\n")) == {"a": 1},
    "yaml_save": lambda f, d: f(d / "b.yaml", {"p": d}) is None and (d / "b.yaml").read_text().startswith("p: "),
    "apply_classifier": lambda f, d: classified(f),
    "attempt_download": lambda f, d: f(file_of(d, "a.pt")) == d / "a.pt",
    "is_url": lambda f, d: f("https://a.b/c") and not f("c.jpg"),
    "url_getsize": lambda f, d: f("http://127.0.0.1:9/x") == -1,
    "curl_download": lambda f, d: f("http://127.0.0.1:9/x", d / "x", silent=True) is False,
    "safe_download": lambda f, d: raises(ConnectionError, f, d / "x", "http://127.0.0.1:9/x"),
    "download": lambda f, d: raises(ConnectionError, f, ["http://127.0.0.1:9/x"], d),
    "increment_path": lambda f, d: f(d / "new") == d / "new",
    "check_dataset": lambda f, d: raises(FileNotFoundError, f, "no_such_data.yaml"),
    "check_yaml": lambda f, d: f("yolov5n.yaml").name == "yolov5n.yaml",
    "init_torch_seeds init_seeds": lambda f, d: f(1) is None,
    # data
    "letterbox": lambda f, d: f(IMAGE, 64)[0].shape == (64, 64, 3) or f(IMAGE, 64)[0].shape == (64, 64, 3),
    "augment_hsv": lambda f, d: f(IMAGE.copy(), 0.1, 0.1, 0.1) is None,
    "box_candidates": lambda f, d: f(BOX.numpy(), BOX.numpy()).all(),
    "get_hash": lambda f, d: len(f([str(file_of(d))])) > 20,
    "exif_size": lambda f, d: f(importlib.import_module("PIL.Image").open(picture(d))) == (48, 32),
    "exif_transpose": lambda f, d: f(importlib.import_module("PIL.Image").open(picture(d))).size == (48, 32),
    "seed_worker": lambda f, d: f(0) is None,
    "InfiniteDataLoader": lambda f, d: first_of(f([1, 2, 3, 4], batch_size=2)).tolist() == [1, 2],
    "LoadWebcam": lambda f, d: raises((ConnectionError, ValueError), f, "9"),
    "LoadImages": lambda f, d: first_of(f(str(picture(d)), img_size=64))[2].shape == (32, 48, 3),
    "LoadStreams LoadScreenshots LoadImagesAndLabels": lambda f, d: isinstance(f, type),
    "create_dataloader": lambda f, d: raises(FileNotFoundError, f, str(d), 64, 1, 32),
    "img2label_paths": lambda f, d: f(["a/images/b.jpg"]) == [str(Path("a/labels/b.txt"))],
    "autosplit": autosplits,
    "verify_image_label": verified,
    "ClassificationDataset LoadImagesAndLabelsAndMasks": lambda f, d: isinstance(f, type),
    "create_classification_dataloader": lambda f, d: raises(ValueError, f, d),
    "hist_equalize": lambda f, d: f(IMAGE, bgr=True).shape == IMAGE.shape,
    "replicate": lambda f, d: f(IMAGE.copy(), LABELS)[1].shape == (3, 5),
    "cutout": lambda f, d: f(IMAGE.copy(), LABELS, p=1.0).shape[1] == 5 and len(f(IMAGE.copy(), LABELS, p=0)) == 2,
    "normalize": lambda f, d: abs(f(torch.full((3, 2, 2), 0.45))).max() < 1,
    "denormalize": lambda f, d: torch.allclose(
        f(torch.zeros(1, 3, 1, 1)).flatten(), torch.tensor([0.485, 0.456, 0.406])
    ),
    "LetterBox": lambda f, d: f(64)(IMAGE).shape == (64, 64, 3),
    "CenterCrop": lambda f, d: f(16)(IMAGE).shape == (16, 16, 3),
    "ToTensor": lambda f, d: f()(IMAGE)[0, 0, 0] == torch.tensor(IMAGE[0, 0, 2] / 255, dtype=torch.float32),
    "classify_transforms": lambda f, d: f(16)(IMAGE).shape == (3, 16, 16),
    # torch
    "autobatch": lambda f, d: f(TINY, batch_size=7) == 7,
    "smartCrossEntropyLoss": lambda f, d: f(0.1)(torch.zeros(1, 2), torch.tensor([0])) > 0.6,
    "smart_DDP": lambda f, d: raises((ValueError, RuntimeError), f, TINY),  # no process group here
    "torch_distributed_zero_first": lambda f, d: f(-1).__enter__() is None,
    "log_tensorboard_graph": lambda f, d: traced(f),
    "device_count": lambda f, d: f() == torch.cuda.device_count(),
    "is_parallel": lambda f, d: f(TINY) is False and f(nn.DataParallel(TINY)),
    "find_modules": lambda f, d: f(TINY) == [1],
    "sparsity": lambda f, d: 0 < f(TINY) < 0.1,
    "prune": lambda f, d: pruned(f),
    "load_classifier": lambda f, d: raises(ValueError, f, "no_such_network"),
    "time_synchronized": lambda f, d: f() <= f(),
    "intersect_dicts": lambda f, d: f({"a": BOX}, {"a": BOX}) == {"a": BOX},
    "reshape_classifier_output": lambda f, d: f(nn.Sequential(nn.Linear(3, 4)), 2)[-1].out_features == 2,
    "FReLU AconC MetaAconC": lambda f, d: f(4)(torch.randn(2, 4, 5, 5)).shape == (2, 4, 5, 5),
    "SiLU Hardswish Mish MemoryEfficientMish MemoryEfficientSwish Swish": lambda f, d: f()(torch.zeros(1)) == 0,
    "smooth_BCE": lambda f, d: f(0.1) == (0.95, 0.05),
    "BCEBlurWithLogitsLoss": lambda f, d: f()(torch.zeros(2), torch.ones(2)) > 0,
    "FocalLoss QFocalLoss": lambda f, d: 0 < f(nn.BCEWithLogitsLoss())(torch.zeros(2), torch.ones(2)) < 0.3,
    "ComputeLoss": lambda f, d: isinstance(f, type),
    # metrics and pictures
    "ap_per_class": lambda f, d: refined(f) and refined(f, plot=True, save_dir=d) and (d / "PR_curve.png").exists(),
    "compute_ap": lambda f, d: 0.98 < f([0.5, 1.0], [1.0, 1.0])[0] <= 1,
    "ap_per_class_box_and_mask": lambda f, d: boxes_and_masks(f),
    "plot_pr_curve": lambda f, d: (
        f(np.linspace(0, 1, 5), np.ones((1, 5)), np.ones((1, 10)), d / "p.png", ["a"]) is None
    ),
    "plot_mc_curve": lambda f, d: f(np.linspace(0, 1, 5), np.ones((1, 5)), d / "p.png", ["a"], ylabel="F1") is None,
    "plot_val_study": lambda f, d: f([(64, 0.5, 0.4, 1.0)], d / "s.png") is None,
    "Colors": lambda f, d: f()(0)[::-1] == f()(0, True) and f.hex2rgb("#FF3838") == (255, 56, 56),
    "check_pil_font": lambda f, d: f("Arial.ttf", 12).getlength("abc") > 5,
    "hist2d": lambda f, d: f(np.array([0.0, 0, 1]), np.array([0.0, 0, 1]), 5).shape == (3,),
    "butter_lowpass_filtfilt": lambda f, d: np.ptp(f(np.tile([0.0, 1.0], 50))[30:70]) < 0.1,
    "output_to_target": lambda f, d: f([DETECTIONS]).tolist()[0][:6] == [0, 1, 20, 40, 20, 40],
    "plot_lr_scheduler": drawn_rates,
    "imshow_cls": lambda f, d: f(
        torch.rand(2, 3, 16, 16), torch.tensor([0, 1]), torch.tensor([1, 1]), f=d / "c.jpg"
    ).exists(),
    "plot_one_box": lambda f, d: in_place(lambda im: f([5, 5, 30, 30], im, (255, 0, 0), "abc é", 2)),
    "plot_one_box_PIL": lambda f, d: f([5, 5, 30, 30], np.zeros((40, 60, 3), np.uint8), label="a").any(),
    "color_list": lambda f, d: len(f()) >= 10,
    "process_mask_upsample": lambda f, d: f(
        np.ones((1, 4, 4)), np.ones((1, 1)), torch.tensor([[0, 0, 16, 16.0]]), (16, 16)
    ).all(),
    "scale_image": lambda f, d: f((16, 16), np.ones((16, 16, 1), np.uint8), (8, 16)).shape == (8, 16, 1),
    "masks_iou": lambda f, d: f(torch.ones(2, 4), torch.ones(2, 4)).shape == (2,),
    "masks2segments": lambda f, d: f(torch.ones(1, 4, 4))[0].shape[1] == 2,
    "plot_images_and_masks": drawn_masks,
    "plot_results_with_masks": drawn_results,
    "polygon2mask": lambda f, d: f((16, 16), [SQUARE.ravel()]).sum() == 100,
    "polygons2masks": lambda f, d: f((16, 16), [SQUARE, SQUARE / 2], color=3)[0].max() == 3,
    "polygons2masks_overlap": lambda f, d: f((16, 16), [SQUARE / 2, SQUARE])[1].tolist() == [1, 0],
    # layers and the like
    "NMS": lambda f, d: f()([PREDICTIONS])[0].shape == (1, 6),
    "autoShape Classify Proto": lambda f, d: is_layer(f),
    "autopad": lambda f, d: f(3) == 1,
    "check_anchor_order": lambda f, d: callable(f),
    "export_formats": lambda f, d: {"Format", "Argument", "Suffix", "CPU", "GPU"} == set(f().columns),
    "process_batch": lambda f, d: f(
        DETECTIONS, torch.cat([torch.ones(1, 1), BOX], 1), torch.linspace(0.5, 0.95, 10)
    ).all(),
    "save_one_txt": written,
    "save_one_json": lambda f, d: listed(f),
}
CALLS = {name: call for text, call in CALLS.items() for name in text.split()}
SPECIAL = {  # names that mean something else in one module
    ("utils.segment.dataloaders", "create_dataloader"): lambda f, d: raises(
        FileNotFoundError, f, str(d), 64, 1, 32, overlap_mask=True
    ),
}
for _module, _second in (("utils.dataloaders", ()), ("utils.segment.augmentations", ([SQUARE],))):
    SPECIAL[_module, "mixup"] = lambda f, d, s=_second: len(f(IMAGE, LABELS, *s, IMAGE, LABELS, *s)[1]) == 4
    SPECIAL[_module, "random_perspective"] = lambda f, d, s=_second: f(IMAGE, LABELS)[0].shape == IMAGE.shape
SPECIAL["utils.dataloaders", "copy_paste"] = lambda f, d: len(f(IMAGE, LABELS, [SQUARE, SQUARE])) == 3
SPECIAL |= {("utils.datasets", name): call for (module, name), call in SPECIAL.items() if module == "utils.dataloaders"}
EVERY_NAME = [(module, name) for module in TABLE for name in owners(module)]


@pytest.mark.parametrize("module, name", EVERY_NAME)
def test_name_is_imported_and_called(module, name, tmp_path):
    found = getattr(importlib.import_module(module), name)
    if name not in CALLS and (module, name) not in SPECIAL:
        assert is_layer(found), f"{name} needs a call in this table"
        return
    assert SPECIAL.get((module, name), CALLS.get(name))(found, tmp_path)


REFUSALS = [(module, name) for name in REFUSED for module in ONLY_IN.get(name, ("utils.general",))]
REFUSALS += [("export", "export_onnx"), ("models.tf", "TFDetect"), ("models.tf", "run")]


@pytest.mark.parametrize("module, name", REFUSALS)
def test_refused_name_can_be_imported_and_says_what_to_use(module, name):
    refused = getattr(importlib.import_module(module), name)
    with pytest.raises(NotImplementedError, match=rf"{module}\.{name} is not available: \w+"):
        refused(1, key=2)


def test_unknown_name_is_none():
    for module in ("utils.general", "utils.datasets", "models.common", "detect"):
        with pytest.raises(AttributeError, match="has no attribute 'no_such_name'"):
            getattr(importlib.import_module(module), "no_such_name")  # noqa: B009
    assert not hasattr(importlib.import_module("utils.plots"), "train")


@pytest.mark.parametrize("name", MODULES)
def test_modules_that_scripts_take_from_utils_general(name):
    assert getattr(importlib.import_module("utils.general"), name) is importlib.import_module(MODULES[name])


def test_star_import_gives_the_lazy_names_too():
    namespace = {}
    exec("from utils.datasets import *\nfrom utils.general import *", namespace)
    for name in ("LoadImages", "letterbox", "non_max_suppression", "scale_coords", "check_img_size"):
        assert callable(namespace[name])


def test_package_yolov5_is_the_same_modules(monkeypatch):
    """Imported in this process: an import hook of its own stays until the end of the test."""
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    yolov5 = importlib.import_module("yolov5")
    for name in ("utils", "utils.general", "models.common", "detect"):
        ours = importlib.import_module(name)
        assert importlib.import_module(f"yolov5.{name}") is ours and ours.__spec__.name == name
    with pytest.raises(ModuleNotFoundError, match="No module named 'yolov5.utils.none'"):
        importlib.import_module("yolov5.utils.none")
    for name in [name for name in sys.modules if name.split(".")[0] == "yolov5"]:
        monkeypatch.delitem(sys.modules, name)
    assert yolov5.__version__ and callable(yolov5.load)
