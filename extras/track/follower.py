"""detect.py --track: Results without ids in, Results with ids out, and the events on the way.

Every video and stream is followed by itself. Objects are followed whatever their class, as a detector may take one
and the same for a car and for a truck.
"""

from collections.abc import Iterable
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from extras.track.bytetrack import ByteTracks, load_library
from extras.track.counting import Watch
from extras.track.events import CsvEvents, JsonEvents
from extras.track.mqtt import MqttEvents, read_address
from extras.track.paint import Painter
from extras.track.places import Places, read_places
from utils.console.text import counted
from utils.logger import LOGGER
from utils.nms import thresholds_of

FAINT_CONF = 0.1  # Boxes from here on may show an object that is known: ByteTrack's own.


@dataclass
class Sequence:
    """One video or stream on its way."""

    path: str
    tracks: ByteTracks
    watch: Watch
    frame: int = 0  # the last one's number
    ids: set = field(default_factory=set)
    ages_s: list = field(default_factory=lambda: [0, 0.0, 0.0])  # how many, their sum, the largest

    def summary(self) -> str:
        """Return a line about all that was followed and counted, and how old a stream's frames were."""
        text = "; ".join([f"{self.path}: {counted(len(self.ids), 'object')} followed", *self.watch.summary()])
        number, total_s, most_s = self.ages_s
        age = f"; frames were {total_s / number:.3f} s old in the mean, {most_s:.3f} s at most" if number else ""
        return text + age


class Follower:
    """What follows objects through a run: adjusted() before it, writing_to() around it, follow() for every result."""

    def __init__(self, places: Places, lost_s: float = 2.0, vid_stride: int = 1, event_kinds: Iterable = ()):
        self.places, self.lost_s, self.vid_stride, self.event_kinds = places, lost_s, vid_stride, event_kinds
        self.sequences: dict[str, Sequence] = {}
        self.sure_conf: float | np.ndarray = 0.0  # or one for each class [nc]
        self.sinks: list = []
        self.has_warned = False

    @classmethod
    def from_options(cls, opt) -> "Follower":
        """Return the Follower of the options of detect.py. What is wrong with them is said before a model is loaded."""
        places = read_places(opt.lines, opt.zones, opt.watch)
        has_places = bool(places.lines or places.zones)
        kinds = [kind for kind, wanted in ((CsvEvents, opt.save_csv), (JsonEvents, opt.save_json)) if wanted]
        if opt.mqtt:
            if not has_places:
                raise ValueError("--mqtt: expected with --lines, --zones or --watch, found without a line or zone")
            address = read_address(opt.mqtt)
            kinds.append(lambda folder: MqttEvents(address))
        load_library()
        return cls(places, opt.lost_s, opt.vid_stride, kinds if has_places else ())

    def adjusted(self, options: dict) -> dict:
        """Return the options of a Detector so that it gives faint boxes too; remembers which ones are wanted."""
        conf, calibrate = np.asarray(options["conf_thres"], np.float32), options.get("calibrate")
        shown = calibrate(np.atleast_1d(conf)) if calibrate else conf
        self.sure_conf = float(shown.item()) if np.size(shown) == 1 else shown
        return {**options, "conf_thres": np.minimum(conf, FAINT_CONF).tolist()}

    @contextmanager
    def writing_to(self, folder: Path):
        """Have the files of events open in `folder`; whatever happens, they are whole afterwards."""
        with ExitStack() as stack:
            for kind in self.event_kinds:
                self.sinks.append(kind(folder))
                stack.callback(self.sinks[-1].close)
            stack.callback(self._end_sequences)
            yield self

    def follow(self, result, line: str) -> tuple:
        """Return a Result with ids, and its line for the console. Pictures that are no video stay as they are."""
        is_sure = result.boxes[:, 4] > thresholds_of(result.boxes[:, 5], self.sure_conf)
        if result.error or result.kind == "image":
            self._warn_of_pictures(result)
            followed = replace(result, boxes=result.boxes[is_sure])
        else:
            followed = self._follow(result, is_sure)
        return followed, line.replace(result.summary(), followed.summary())

    def _follow(self, result, is_sure: np.ndarray):
        sequence = self._sequence(result)
        sequence.frame = result.frame
        ids = sequence.tracks.update(result.boxes[:, :4], is_sure, result.time_s)
        shown = is_sure | (ids > 0)
        followed = replace(result, boxes=result.boxes[shown], ids=ids[shown])
        sequence.ids.update(ids[ids > 0].tolist())
        if result.age_s is not None:
            number, total_s, most_s = sequence.ages_s
            sequence.ages_s = [number + 1, total_s + result.age_s, max(most_s, result.age_s)]
        self._write(followed, sequence.watch.look(objects_of(followed), result.time_s))
        return replace(followed, paint=Painter.of(sequence.watch))

    def _sequence(self, result) -> Sequence:
        """Return the sequence of a frame, a new one at the beginning of a video or stream."""
        known = self.sequences.get(result.path)
        if known and (result.kind != "video" or result.frame > known.frame):
            return known
        if result.kind == "video":  # Files come one after the other.
            self._end_sequences()
        fps = result.fps / self.vid_stride
        watch = Watch(self.places, result.shape, self.lost_s)
        self.sequences[result.path] = Sequence(result.path, ByteTracks(fps, self.lost_s), watch)
        return self.sequences[result.path]

    def _write(self, result, events: list) -> None:
        where = {"time_s": round(result.time_s, 6), "source": result.path, "frame": result.frame}
        if result.age_s is not None:
            where["age_s"] = round(result.age_s, 6)
        for event in events:
            if "duration_s" in event:
                event["duration_s"] = round(event["duration_s"], 6)
            for sink in self.sinks:
                sink.write({**where, **event})

    def _warn_of_pictures(self, result) -> None:
        if not result.error and not self.has_warned:
            LOGGER.warning(f"--track follows objects through videos and streams; {result.path} is a picture")
            self.has_warned = True

    def _end_sequences(self) -> None:
        for sequence in self.sequences.values():
            LOGGER.info(sequence.summary())
        self.sequences.clear()


def objects_of(result) -> list:
    """Return a dict for each box with an id, as events show it."""
    rows = zip(result.boxes.tolist(), result.ids.tolist())
    return [
        {"id": one, "class": int(cls), "name": result.names[int(cls)], "confidence": round(conf, 5), "box_xyxy": xyxy}
        for (*xyxy, conf, cls), one in rows
        if one
    ]
