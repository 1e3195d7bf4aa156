"""The folder of a client: the model under its name there, and the files that tell the client about it."""

import json
import os
import tarfile
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

from extras.clients.decoding import Setting
from extras.clients.profiles import Profile
from models.backends.base import ExportSpec
from models.backends.metadata import Metadata
from utils.files import write_whole


@dataclass(frozen=True)
class Job:
    """What is known about one export when its folder is written."""

    profile: Profile
    runtime: str  # the key of the format
    spec: ExportSpec
    metadata: Metadata
    setting: Setting
    target: Path  # the folder under its final name
    stem: str  # of the checkpoint
    suffix: str  # of the model file

    @property
    def model(self) -> str:
        """The path of the model file in the folder."""
        return Template(self.profile.model or "$stem").substitute(stem=self.stem) + self.suffix


def context(job: Job) -> dict[str, Any]:
    """Return the values that texts and mappings of clients.yaml may name: numbers, texts and lists."""
    spec, setting = job.spec, job.setting
    names = [" ".join(name.split()) for name in job.metadata.names.values()]  # a line each
    height, width = setting.imgsz_hw
    conf = job.metadata.own_thresholds.conf if job.metadata.own_thresholds else []
    maps = [[setting.channels, height // int(stride), width // int(stride)] for stride in setting.strides]
    outputs = [job.profile.output.format(i=i, n=i + 1) for i in range(len(maps))]
    anchors = [[[row[i], row[i + 1]] for i in range(0, len(row), 2)] for row in setting.anchors_px]
    return {
        "folder": str(job.target),
        "folder_name": job.target.name,
        "model": job.model,
        "stem": job.stem,
        "runtime": job.runtime,
        **{"width": width, "height": height, "batch": spec.batch, "nc": setting.nc},
        **{"conf": round(spec.conf_thres, 6), "iou": spec.iou_thres, "max_det": spec.max_det},
        "names": names,
        "labels": "\n".join(names),
        "numbered_labels": "\n".join(f"{number} {name}" for number, name in enumerate(names)),
        "words": " ".join(name.replace(" ", "_") for name in names),
        "yaml_list": "\n".join(f"  - {json.dumps(name, ensure_ascii=False)}" for name in names),
        "class_conf": dict(zip(names, conf)) or None,
        "class_attributes": "\n".join(
            f"\n[class-attrs-{number}]\nnms-iou-threshold={spec.iou_thres}\npre-cluster-threshold={least:g}"
            for number, least in enumerate(conf)
        ),
        "anchors": anchors,
        "anchor_lines": "\n".join(str(value) for row in setting.anchors_px for value in row),
        "strides": [int(stride) for stride in setting.strides],
        "first_stride": int(setting.strides[0]),
        "output_names": outputs,
        "outputs": [
            {"name": name, "dtype": "float32", "shape": [spec.batch, *shape], "layout": "NCHW"}
            for name, shape in zip(outputs, maps)
        ],
        "nnstreamer_framework": {"onnx": "onnxruntime", "litert": "tensorflow-lite"}.get(job.runtime, job.runtime),
        "to_channels_first": "! tensor_transform mode=transpose option=1:2:0:3 " if job.runtime == "onnx" else "",
    }


def filled(value: Any, values: dict[str, Any]) -> Any:
    """Return a text, or the texts in a mapping or list, with $name replaced; "$name" alone becomes the value itself."""
    if isinstance(value, dict):
        return {filled(key, values): filled(item, values) for key, item in value.items()}
    if isinstance(value, list):
        return [filled(item, values) for item in value]
    if not isinstance(value, str):
        return value
    return values[value[1:]] if value[1:] in values and value[0] == "$" else Template(value).substitute(values)


def text_of(content: Any, values: dict[str, Any]) -> str:
    """Return a side file's text, filled in; of a mapping its JSON."""
    content = filled(content, values)
    text = content if isinstance(content, str) else json.dumps(content, indent=2, ensure_ascii=False)
    return text.rstrip("\n")


def write_folder(job: Job, written: Path, folder: Path) -> Path:
    """Move the model `written` into the new folder `folder`, write the side files beside it, and return the folder."""
    values, profile = context(job), job.profile
    model = folder / job.model
    model.parent.mkdir(parents=True)
    if written.is_dir():
        for part in written.iterdir():
            os.replace(part, model.with_suffix(part.suffix) if part.suffix in (".xml", ".bin") else folder / part.name)
    else:
        os.replace(written, model)
    for name, content in profile.files.items():
        file = folder / filled(name, values)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, text_of(content, values) + "\n")
    if profile.archive:
        packed = [model, *(folder / filled(name, values) for name in profile.files)]
        with tarfile.open(folder / filled(profile.archive, values), "w:xz") as archive:
            for file in packed:
                archive.add(file, arcname=file.name)
    job.metadata.save(folder)  # It also tells an earlier export from another folder.
    return folder


def steps(job: Job) -> str:
    """Return what to do with the folder, for the user, and what to put into the client's configuration."""
    values, profile = context(job), job.profile
    shown = [text_of(profile.files[profile.shown], values)] if profile.shown else []
    return "\n\n".join([filled(profile.steps, values).rstrip(), *shown])
