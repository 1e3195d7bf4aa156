"""The export of a model for another program: in a layout (--layout), or as a folder with all that it needs (--for)."""

from argparse import Namespace
from dataclasses import replace as changed
from pathlib import Path

from extras.clients import side_files
from extras.clients.decoding import Setting
from extras.clients.gate import ClientFile, ClientGate
from extras.clients.layouts import UNITS, find_layout
from extras.clients.profiles import Profile, find_profile
from extras.export.exporter import Job
from models.backends import Format
from models.backends.metadata import Metadata
from models.backends.openvino import graph_path, load_openvino
from utils.files import write_atomic

HERE_TOO = ("v5", "e2e")  # layouts that this project's scripts read, in pixels


class ClientJob(Job):
    """One model and the options for all formats, in a client's layout."""

    def __init__(self, opt: Namespace):
        self.profile = chosen_profile(opt)
        self.layout = find_layout(self.profile.layout)
        self.is_readable_here = self.layout.name in HERE_TOO and not self.as_fractions and self.profile.image == "nchw"
        self._check_options(opt)
        super().__init__(Namespace(**{**vars(opt), "nms": self.layout.has_nms}))
        if self.reference.task != "detect":
            raise ValueError(f"--layout and --for: expected a detection model, found one for '{self.reference.task}'")
        maps = len(self.reference.model.head.m)
        if self.profile.maps not in (0, maps):
            raise ValueError(f"--for {self.profile.key}: expected a model with {self.profile.maps} maps, found {maps}")
        self.imgsz = self._imgsz(opt)
        self.spec = changed(self.spec, imgsz=self.imgsz)

    @property
    def formats(self) -> tuple[str, ...]:
        return self.profile.formats[:1]

    @property
    def as_fractions(self) -> bool:
        return self.profile.box_unit != "px"

    def _imgsz(self, opt: Namespace) -> tuple[int, int]:
        """Return height and width, px: the flag's, else the client's, else the model's, square if it must be."""
        if not opt.imgsz and self.profile.size_px:
            return (self.profile.size_px, self.profile.size_px)
        height, width = self.imgsz
        if not self.profile.is_square or height == width:
            return self.imgsz
        if opt.imgsz:
            raise ValueError(f"--imgsz: --for {self.profile.key} needs a square, found {height}x{width}")
        return (max(self.imgsz), max(self.imgsz))

    def _check_options(self, opt: Namespace) -> None:
        """Raise ValueError for options that exclude each other or that the client cannot do with."""
        name = f"--for {self.profile.key}" if self.profile.key else f"--layout {self.layout.name}"
        if opt.nms and not self.layout.has_nms:
            raise ValueError(f"--nms: expected one of the layouts e2e, flat7 and split, found {name}")
        if opt.embed:
            raise ValueError(f"--embed: the file has an output of its own, it excludes {name}")
        if opt.int8 and not self.is_readable_here:
            raise ValueError(f"--int8: expected a layout that val.py reads, {' or '.join(HERE_TOO)}, found {name}")
        if opt.dynamic and (self.as_fractions or self.profile.key):
            raise ValueError(f"--dynamic: {name} needs a file of one size")

    def _check(self, row: Format) -> None:
        allowed = self.profile.formats if self.profile.key else self.layout.formats
        if row.key not in allowed:
            who = self.profile.title or f"the layout {self.layout.name}"
            raise ValueError(f"{who}: expected --include with one of {' '.join(allowed)}, found {row.key}")
        super()._check(row)

    def target(self, row: Format) -> Path:
        """Return the folder of a client, or the file of a layout, beside the checkpoint."""
        file = super().target(row)
        if self.profile.key:
            other = f"_{row.key}" if row.key != self.profile.formats[0] else ""
            return file.with_name(f"{file.name.removesuffix(row.suffixes[0])}_{self.profile.key}{other}")
        if self.is_readable_here:
            return file
        unit = "-fractions" if self.as_fractions else ""
        suffix = row.suffixes[0]
        return file.with_name(f"{file.name.removesuffix(suffix)}-{self.layout.name}{unit}{suffix}")

    def metadata(self) -> Metadata:
        metadata = super().metadata()
        return metadata if self.is_readable_here else changed(metadata, output=self.layout.name)

    def exported_model(self):
        from extras.clients.arrange import Arranged

        model = super().exported_model()
        if self.layout.has_nms:
            return model
        hw = self.imgsz if self.as_fractions else None
        return Arranged(model, self.layout, hw, self.profile.activated, self.profile.output)

    def file_name(self, row: Format) -> str:
        return super().target(row).name

    def write_model(self, row: Format, folder: Path, metadata: Metadata) -> Path:
        file = super().write_model(row, folder, metadata)
        if row.key == "onnx":
            self._finish_onnx(file)
        return file

    def _finish_onnx(self, file: Path) -> None:
        """Put into the file what the network itself has no part in."""
        import onnx

        from extras.clients import graphs

        model, profile = onnx.load(str(file)), self.profile
        if self.layout.has_nms:
            output, hw = profile.output.format(i=0, n=1), self.imgsz if self.as_fractions else None
            model = graphs.rearranged(model, self.layout, output, hw)
        if profile.image != "nchw":
            model = graphs.with_image(model, profile.image)
        graphs.renamed(model, {model.graph.input[0].name: profile.input})
        onnx.save(model, str(file))

    def write_metadata(self, row: Format, file: Path, metadata: Metadata) -> None:
        super().write_metadata(row, file, metadata)
        if self.profile.has_plain_metadata and row.key == "onnx":
            write_plain_metadata(file, metadata)
        if self.profile.rt_info and row.key == "openvino":
            values = side_files.context(self._folder_job(row, metadata))
            write_rt_info(file, side_files.filled(self.profile.rt_info, values))

    def packed(self, row: Format, file: Path, metadata: Metadata) -> Path:
        if not self.profile.key:
            return file
        return side_files.write_folder(self._folder_job(row, metadata), file, file.parent / "folder")

    def steps(self, row: Format) -> str:
        return side_files.steps(self._folder_job(row, self.metadata())) if self.profile.key else ""

    def _folder_job(self, row: Format, metadata: Metadata) -> side_files.Job:
        suffix = ".xml" if row.key == "openvino" else row.suffixes[0]
        setting, stem = self.setting(), self.weights.stem
        return side_files.Job(self.profile, row.key, self.spec, metadata, setting, self.target(row), stem, suffix)

    def gate(self, row: Format, file: Path, metadata: Metadata) -> ClientGate:
        image = "nhwc" if row.key == "litert" else self.profile.image  # LiteRT files always have it so
        exported = ClientFile(file, row.key, self.layout, self.setting(), metadata, image)
        return ClientGate(self.reference, exported, self.imgsz, metadata, self.layout, self.profile.is_stretched)

    def setting(self) -> Setting:
        head = self.reference.model.head
        strides = [float(stride) for stride in head.stride]
        anchors = [(level * stride).flatten().tolist() for level, stride in zip(head.anchors, strides)]
        return Setting(
            imgsz_hw=self.imgsz,
            nc=len(self.reference.names),
            as_fractions=self.as_fractions,
            anchors_px=tuple(map(tuple, anchors)),
            strides=tuple(strides),
            activated=self.profile.activated,
            max_det=self.spec.max_det,
        )


def write_plain_metadata(file: Path, metadata: Metadata) -> None:
    """Put the metadata into an ONNX file as readers of YOLOv8's files want them: Python literals, bare words."""
    import onnx

    model = onnx.load(str(file))
    plain = {"names": repr(metadata.names), "task": metadata.task, "imgsz": repr(metadata.imgsz)}
    onnx.helper.set_model_props(model, metadata.to_strings() | plain | {"batch": str(metadata.batch)})
    write_atomic(file, model.SerializeToString())


def write_rt_info(folder: Path, values: dict) -> None:
    """Put {key: value} into an OpenVINO folder's .xml file as its rt_info, under model_info."""
    openvino = load_openvino()
    file = graph_path(folder)
    graph = openvino.Core().read_model(file.read_bytes(), file.with_suffix(".bin").read_bytes())
    for key, value in values.items():
        graph.set_rt_info(str(value), ["model_info", key])
    openvino.save_model(graph, file, compress_to_fp16=False)


def chosen_profile(opt: Namespace) -> Profile:
    """Return the client's profile, or one of --layout and --box-unit alone; ValueError if both are given."""
    if opt.client and (opt.layout or opt.box_unit):
        raise ValueError("--for chooses the layout: it excludes --layout and --box-unit")
    if opt.client:
        return find_profile(opt.client)
    layout = find_layout(opt.layout or "v5")
    unit = opt.box_unit or "px"
    if unit != "px" and not layout.has_boxes:
        raise ValueError(f"--box-unit {unit}: the layout {layout.name} has no boxes, which are in {' or '.join(UNITS)}")
    return Profile(layout=layout.name, formats=layout.formats, box_unit=unit)
