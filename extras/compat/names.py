"""Which of our functions answers to which name that scripts for YOLOv5 v5 to v7 import, and what is refused.

The modules of the core ask find() for a name that they do not have. Nothing here is a copy: a name leads to its owner.
"""

import sys
from collections.abc import Iterable
from functools import cache
from importlib import import_module
from typing import Any

HERE = "extras.compat."
# Modules that YOLOv5's own modules happen to hold, and that scripts take from there.
MODULES = {"cv2": "cv2", "logging": "logging", "np": "numpy", "torch": "torch", "pd": "pandas", "yaml": "yaml"}
BOXES = "clip_boxes clip_coords=clip_boxes scale_boxes scale_coords=scale_boxes box_iou bbox_iou bbox_ioa wh_iou"
CHECKS = (
    "is_ascii is_chinese is_colab is_jupyter is_notebook=is_jupyter is_kaggle is_docker isdocker=is_docker is_pip "
    "check_online check_git_status check_git_info git_describe check_python check_version check_requirements "
    "check_imshow check_suffix check_font check_amp date_modified=file_date file_date file_age"
)
TOOLS = (
    "FILE NUM_THREADS DATASETS_DIR AUTOINSTALL VERBOSE TQDM_BAR_FORMAT FONT LOGGING_NAME CONFIG_DIR NCOLS set_logging "
    "user_config_dir get_default_args get_latest_run methods clean_str emojis TryExcept try_except threaded "
    "join_threads notebook_init Timeout WorkingDirectory imread imwrite imshow imshow_=imshow url2file unzip_file"
)
LAYERS = (
    "autopad Conv DWConv DWConvTranspose2d TransformerLayer TransformerBlock Bottleneck BottleneckCSP C3 C3TR C3SPP "
    "C3Ghost SPP SPPF Focus GhostConv GhostBottleneck Concat"
)
RANKS = "RANK LOCAL_RANK WORLD_SIZE"
DOWNLOADS = "is_url curl_download safe_download download_all"
AUGMENTATIONS = "letterbox augment_hsv copy_paste mixup random_perspective box_candidates"
LOADERS = "LoadImages LoadStreams LoadScreenshots LoadWebcam"
PIXELS = "hist_equalize replicate cutout"
EVALUATION = "process_batch save_one_txt save_one_json"

# module -> {owner: its names; NEW=OLD where scripts call OLD by the name NEW}
TABLE = {
    "utils.general": {
        "utils.boxes": BOXES,
        "utils.metrics": "fitness",
        "utils.files.yaml": "yaml_load=load_yaml",
        "utils.data.folder": "is_writeable=is_writable",
        "utils.torch_utils": "init_torch_seeds",
        "extras.download.files": "attempt_download",
        HERE + "constants": RANKS,
        HERE + "checks": CHECKS,
        HERE + "general": TOOLS + " yaml_save apply_classifier scale_segments clip_segments",
        HERE + "downloads": "is_url curl_download download=download_all",
    },
    "utils.dataloaders": {
        "utils.augmentations": AUGMENTATIONS,
        "utils.boxes": "xyn2xy xywh2xyxy xywhn2xyxy xyxy2xywhn segments2boxes",
        "utils.general": "check_dataset check_yaml",
        "extras.classify.data": "ClassificationDataset create_classification_dataloader",
        HERE + "constants": f"{RANKS} PIN_MEMORY",
        HERE + "general": "TQDM_BAR_FORMAT BAR_FORMAT=TQDM_BAR_FORMAT",
        HERE + "data": "HELP_URL help_url=HELP_URL get_hash exif_size exif_transpose seed_worker InfiniteDataLoader "
        "img2label_paths autosplit verify_image_label",
        HERE + "loaders": LOADERS,
        HERE + "pixels": PIXELS,
    },
    "utils.datasets": {
        "utils.data.images": "IMG_FORMATS img_formats=IMG_FORMATS IMAGE_EXTENSIONS=IMG_FORMATS",
        "utils.sources.files": "VID_FORMATS vid_formats=VID_FORMATS",
        "utils.dataloaders": "LoadImagesAndLabels create_dataloader",
    },
    "utils.augmentations": {
        HERE + "pixels": PIXELS + " IMAGENET_MEAN IMAGENET_STD normalize denormalize",
        HERE + "transforms": "LetterBox CenterCrop ToTensor classify_transforms",
    },
    "utils.autobatch": {HERE + "torch_tools": "autobatch"},
    "utils.downloads": {HERE + "downloads": DOWNLOADS.replace("download_all", "url_getsize")},
    "utils.google_utils": {"extras.download.files": "attempt_download"},
    "utils.loss": {HERE + "losses": "smooth_BCE BCEBlurWithLogitsLoss FocalLoss QFocalLoss"},
    "utils.metrics": {
        "utils.plots.charts": "plot_pr_curve plot_mc_curve",
        HERE + "metrics": "ap_per_class compute_ap",
    },
    "utils.plots": {
        "utils.plots.charts": "plot_val_study",
        HERE + "drawing": "Colors check_pil_font hist2d butter_lowpass_filtfilt output_to_target plot_lr_scheduler "
        "imshow_cls plot_one_box plot_one_box_PIL color_list",
        HERE + "checks": "check_font is_ascii is_chinese",
        "utils.boxes": "xywh2xyxy xyxy2xywh clip_boxes clip_coords=clip_boxes",
        "utils.general": "increment_path",
    },
    "utils.torch_utils": {
        "utils.timing": "time_synchronized=time_sync",
        "utils.checkpoint": "intersect_dicts",
        "utils.general": "init_seeds",
        "extras.classify.model": "reshape_classifier_output",
        HERE + "constants": RANKS,
        HERE + "checks": "check_version date_modified=file_date file_date git_describe",
        HERE + "torch_tools": "smartCrossEntropyLoss smart_DDP torch_distributed_zero_first device_count is_parallel "
        "find_modules sparsity prune load_classifier init_torch_seeds",
    },
    "utils.activations": {
        HERE + "activations": "SiLU Hardswish Mish MemoryEfficientMish=Mish MemoryEfficientSwish=SiLU Swish=SiLU FReLU "
        "AconC MetaAconC"
    },
    "utils.loggers": {
        "utils.logger": "LOGGER",
        HERE + "general": "LOGGERS",
        HERE + "torch_tools": "log_tensorboard_graph",
    },
    "utils.loggers.wandb.wandb_utils": {},
    "utils.triton": {},
    "utils.segment.general": {HERE + "masks": "process_mask_upsample scale_image masks_iou masks2segments"},
    "utils.segment.plots": {HERE + "masks": "plot_images_and_masks plot_results_with_masks"},
    "utils.segment.metrics": {HERE + "metrics": "ap_per_class_box_and_mask KEYS BEST_KEYS fitness=segment_fitness"},
    "utils.segment.loss": {"extras.segment.loss": "ComputeLoss=ComputeSegmentLoss"},
    "utils.segment.dataloaders": {
        "extras.segment.dataset": "LoadImagesAndLabelsAndMasks=LoadImagesAndMasks",
        HERE + "masks": "create_dataloader polygon2mask polygons2masks polygons2masks_overlap",
    },
    "utils.segment.augmentations": {HERE + "masks": "mixup random_perspective"},
    "models.common": {HERE + "layers": "NMS", "extras.hub.autoshape": "autoShape=AutoShape"},
    "models.experimental": {"models.common": LAYERS, "extras.download.files": "attempt_download"},
    "models.yolo": {
        "models.common": LAYERS,
        "models.heads": "Classify Proto",
        "models.experimental": "MixConv2d CrossConv C3x Contract Expand Sum",
        "utils.autoanchor": "check_anchor_order",
    },
    "models.tf": {},
    "export": {HERE + "formats": "export_formats"},
    "train": {HERE + "constants": f"{RANKS} GIT_INFO"},
    "val": {HERE + "evaluation": EVALUATION},
    "segment.val": {HERE + "evaluation": EVALUATION},
    "segment.train": {HERE + "constants": f"{RANKS} GIT_INFO"},
    "classify.train": {HERE + "constants": f"{RANKS} GIT_INFO"},
}
TABLE["utils.datasets"] |= TABLE["utils.dataloaders"]

OF_EVOLUTION = "train.py --evolve searches, and writes evolve.csv and evolve.png"
OF_RESULTS = "plot_results() of utils.plots draws a results.csv"
OF_EXPORT = "use export.run(weights='best.pt', include=['onnx']); find_format() of models.backends knows the formats"
OF_TENSORFLOW = "there are no TensorFlow layers here: export.py --include litert writes .tflite, onnx writes .onnx"
OF_TRACKERS = "use --logger wandb (mlflow, clearml, comet, tensorboard); results.csv is written in any case"
OF_TRAINING = "use train.run(data='my.yaml', epochs=10), which takes the options of the script as keywords"
# name -> what to use instead; these can be imported, and say so when they are called
REFUSED = {
    "print_mutation": OF_EVOLUTION,
    "plot_evolution": OF_EVOLUTION,
    "plot_results_overlay": OF_RESULTS,
    "plot_val_txt": OF_RESULTS,
    "plot_test_txt": OF_RESULTS,
    "plot_targets_txt": "plot_labels() of utils.plots draws labels",
    "plot_study_txt": "val.py --task study draws its table",
    "plot_wh_methods": "models/heads.py gives the formula of width and height",
    "profile_idetection": "detect.py --profile measures every stage",
    "gsutil_getsize": "nothing is fetched from Google's storage: use download() with an https:// address",
    "gdrive_download": "nothing is fetched from Google Drive: use download() with an https:// address",
    "get_token": "nothing is fetched from Google Drive: use download() with an https:// address",
    "Albumentations": "the hyperparameters in data/hyps/ say how pictures are changed; albumentations is not used",
    "classify_albumentations": "extras.classify.augment.TrainTransform changes pictures for classifiers",
    "HUBDatasetStats": "train.py and val.py report what they find in a data set; nothing is sent",
    "dataset_stats": "train.py and val.py report what they find in a data set; nothing is sent",
    "create_folder": "it empties a folder that exists, and nothing of yours is deleted here: use Path.mkdir()",
    "flatten_recursive": "folders are searched with all below them, so no flat copy is needed",
    "extract_boxes": "detect.py --save-crop, or save_one_box() of utils.plots, cuts objects out",
    "load_image": "use the method load_image(index) of LoadImagesAndLabels",
    "load_mosaic": "LoadImagesAndLabels(..., augment=True) makes mosaics",
    "load_mosaic9": "LoadImagesAndLabels(..., augment=True) makes mosaics; the hyperparameter mosaic9 those of nine",
    "SmartDistributedSampler": "EpochSampler of utils.data.loader gives every process its part",
    "smart_hub_load": "use torch.hub.load(folder, 'custom', path='best.pt', source='local')",
    "smart_resume": "train.py --resume goes on with a training, to the bit",
    "TritonRemoteModel": "no inference server is called from here: export.py writes the files that one serves",
    "WandbLogger": OF_TRACKERS,
    "CometLogger": OF_TRACKERS,
    "ClearmlLogger": OF_TRACKERS,
    "Loggers": OF_TRACKERS,
    "GenericLogger": OF_TRACKERS,
    "log_model": OF_TRACKERS,
    "check_wandb_resume": OF_TRACKERS,
    "check_wandb_dataset": OF_TRACKERS,
    "process_wandb_config_ddp_mode": OF_TRACKERS,
    "Metric": "SegmentMetrics of extras.segment.metrics scores boxes and masks",
    "Metrics": "SegmentMetrics of extras.segment.metrics scores boxes and masks",
    "iOSModel": OF_EXPORT,
    "try_export": OF_EXPORT,
    "train": OF_TRAINING,
    "detect": "use detect.run(weights='best.pt', source='folder')",
    "test": "use benchmarks.run(weights='best.pt')",
    "pt_only": "use val.run(weights='best.pt')",
    "run_evolve": OF_EVOLUTION,
    "representative_dataset_gen": OF_TENSORFLOW,
    "activations": OF_TENSORFLOW,
}
# The modules where a name of REFUSED is one of YOLOv5's; the others may be wanted from anywhere.
ONLY_IN = {
    "train": ("train", "segment.train", "classify.train"),
    "detect": ("detect",),
    "test": ("benchmarks",),
    "pt_only": ("benchmarks",),
    "activations": ("models.tf",),
}


def find(module: str, name: str, lazily: Iterable[str] = ()) -> Any:
    """Return what a script means by `name` of `module`; a refused name gives a function that says what to use.

    AttributeError if YOLOv5 has no such name there either. "__all__" gives the names for `from module import *`, to
    which those of `lazily` belong.
    """
    if name == "__all__":
        public = {key for key in vars(sys.modules[module]) if not key.startswith("_") and key != "lazy"}
        return sorted({*public, *lazily, *owners(module)})
    if name in owners(module):
        owner, attribute = owners(module)[name]
        return getattr(import_module(owner), attribute)
    if name in MODULES and module.startswith("utils."):
        return import_module(MODULES[name])
    advice = refusal(module, name)
    if advice and module in ONLY_IN.get(name, (module,)):
        return _refusing(module, name, advice)
    raise AttributeError(f"module '{module}' has no attribute '{name}'")


@cache
def owners(module: str) -> dict[str, tuple[str, str]]:
    """Return {name: (module that has it, its name there)} of a row of TABLE."""
    words = [(owner, word) for owner, names in TABLE.get(module, {}).items() for word in names.split()]
    return {word.split("=")[0]: (owner, word.split("=")[-1]) for owner, word in words}


def refusal(module: str, name: str) -> str:
    """Return what is to be used instead of a refused name, or ''."""
    if module == "export" and name.startswith("export_"):
        return OF_EXPORT
    if module == "models.tf" and (name.startswith("TF") or name == "run"):
        return OF_TENSORFLOW
    return REFUSED.get(name, "")


def _refusing(module: str, name: str, advice: str):
    def refuse(*args: Any, **kwargs: Any):
        raise NotImplementedError(f"{module}.{name} is not available: {advice}")

    refuse.__name__ = refuse.__qualname__ = name
    refuse.__doc__ = f"Refused: {advice}."
    return refuse
