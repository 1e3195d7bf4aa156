// A detector that `export.py --include onnx` wrote, run by onnxruntime-web. Free of the page: import it into your own.
//
//     const detector = await Detector.open(bytes, "best.onnx");
//     const { boxes } = await detector.detect(context.getImageData(0, 0, width, height));
//
// The numbers are those of detect.py: pixels are resized here, because a canvas resizes with another filter.

const RUNTIME = new URL("node_modules/onnxruntime-web/dist/", import.meta.url).href;
const BUNDLES = { wasm: "ort.wasm.min.mjs", webgpu: "ort.webgpu.min.mjs" };
const MAX_THREADS = 4;
export const MIN_CONFIDENCE = 0.01; // boxes below it are dropped at once
const CONFIDENCE = 0.25; // where neither the caller nor the model says
const MAX_BOXES = 1000; // detect.py's --max-det
const GREY = 114; // of the border
const DEFAULT_SIZE = 640; // where neither the input's shape nor the metadata says

export class Detector {
  /** @param {Uint8Array} bytes of the .onnx file. @param {"wasm" | "webgpu"} backend */
  static async open(bytes, file, backend = "wasm") {
    const info = readInfo(bytes, file); // first, because the runtime's worker takes the bytes over
    const ort = await loadRuntime(backend);
    let session;
    try {
      session = await ort.InferenceSession.create(bytes, { executionProviders: [backend] });
    } catch (error) {
      throw new Error(`${file}: ${BUNDLES[backend]} cannot open it: ${error.message}`);
    }
    return new Detector(ort, session, info, file, backend);
  }

  constructor(ort, session, info, file, backend) {
    const wanted = info.output === "image" ? "image" : "images";
    if (session.inputNames[0] !== wanted) {
      throw new Error(`${file}: expected the input ${wanted}, found ${session.inputNames.join(", ")}`);
    }
    const [batch, , height, width] = session.inputMetadata[0].shape; // names in place of numbers where it is dynamic
    if (wanted === "images" && batch > 1) {
      throw new Error(`${file}: expected a model for 1 picture at a time, found a batch of ${batch}`);
    }
    const fixed = Number.isInteger(height) && Number.isInteger(width);
    Object.assign(this, { ort, session, file, backend });
    this.names = info.names; // {class number: name}
    this.thresholds = info.thresholds; // as in models/backends/thresholds.py; null where the model has none
    this.output = info.output; // as in models/backends/metadata.py: raw, boxes or image
    this.size = fixed ? [height, width] : info.imgsz;
    this.stride = fixed ? null : info.stride; // null: the border fills this.size, else it is the smallest that will do
    this.threads = backend === "wasm" ? ort.env.wasm.numThreads : 1;
  }

  /** Boxes of an ImageData, and the milliseconds of each step. */
  async detect(image, limits = {}) {
    const start = performance.now();
    const feeds = this.prepare(image);
    const prepared = performance.now();
    const outputs = await this.session.run(feeds);
    const inferred = performance.now();
    this.last = READERS[this.output](outputs);
    const boxes = this.boxes(limits);
    const ms = { prepare: prepared - start, model: inferred - prepared, boxes: performance.now() - inferred };
    return { boxes, ms };
  }

  /**
   * The last picture's boxes [{xyxy, confidence, class, name}] in its pixels, by falling confidence.
   * Without a confidence the model's own thresholds count, if it has any, and what its confidences are worth is given.
   */
  boxes({ confidence, iou = 0.45 } = {}) {
    const own = confidence === undefined ? this.thresholds : null;
    const least = (box) => own?.conf[box.class] ?? confidence ?? CONFIDENCE;
    const found = this.last.filter((box) => box.confidence > least(box));
    found.sort((a, b) => b.confidence - a.confidence);
    const kept = this.output === "raw" ? suppress(found, iou) : found;
    return kept.slice(0, MAX_BOXES).map((box) => this.finish(box, own));
  }

  finish(box, own) {
    const { ratio, left, top, width, height } = this.frame;
    const x = (value) => Math.round(Math.min(Math.max((value - left) / ratio, 0), width));
    const y = (value) => Math.round(Math.min(Math.max((value - top) / ratio, 0), height));
    const [x1, y1, x2, y2] = box.xyxy;
    const name = this.names[box.class] ?? String(box.class);
    return { xyxy: [x(x1), y(y1), x(x2), y(y2)], confidence: chance(own, box.confidence), class: box.class, name };
  }

  /** The model's input; leaves in this.frame how its pixels and the picture's belong together. */
  prepare(image) {
    const { Tensor } = this.ort;
    if (this.output === "image") {
      this.frame = { ratio: 1, left: 0, top: 0, width: image.width, height: image.height };
      return { image: new Tensor("uint8", dropAlpha(image), [image.height, image.width, 3]) };
    }
    const { data, shape, ...frame } = letterbox(image, ...this.size, this.stride);
    this.frame = frame;
    return { images: new Tensor("float32", data, shape) };
  }

  async close() {
    await this.session.release();
  }
}

/** The chance that a box of some confidence is right, on the line between the two points of `own` beside it. */
export function chance(own, confidence) {
  const { scores = [], chances = [] } = own ?? {};
  if (!scores.length) return confidence;
  const next = scores.findIndex((score) => score >= confidence);
  if (next <= 0) return next ? chances.at(-1) : chances[0];
  const share = (confidence - scores[next - 1]) / (scores[next] - scores[next - 1]);
  return chances[next - 1] + share * (chances[next] - chances[next - 1]);
}

// From the model's outputs to boxes [{xyxy in its pixels, confidence, class}].
const READERS = {
  raw(outputs) {
    const { data, dims } = Object.values(outputs)[0]; // [1, n, 5 + classes]: xywh, objectness, class scores
    const length = dims.at(-1);
    const boxes = [];
    for (let row = 0; row < data.length; row += length) {
      const objectness = data[row + 4];
      if (objectness <= MIN_CONFIDENCE) continue; // nearly all
      let best = row + 5;
      for (let i = best + 1; i < row + length; i++) if (data[i] > data[best]) best = i;
      const [x, y, w, h] = data.subarray(row, row + 4);
      const xyxy = [x - w / 2, y - h / 2, x + w / 2, y + h / 2];
      boxes.push({ xyxy, confidence: objectness * data[best], class: best - row - 5 });
    }
    return boxes;
  },
  boxes(outputs) {
    const { data } = Object.values(outputs)[0]; // [1, n, 6]: xyxy, confidence, class
    const boxes = [];
    for (let row = 0; row < data.length; row += 6) {
      boxes.push({ xyxy: [...data.subarray(row, row + 4)], confidence: data[row + 4], class: data[row + 5] });
    }
    return boxes;
  },
  image({ boxes, scores, classes }) {
    return Array.from(scores.data, (confidence, i) => {
      return { xyxy: [...boxes.data.subarray(4 * i, 4 * i + 4)], confidence, class: Number(classes.data[i]) };
    });
  },
};

async function loadRuntime(backend) {
  if (typeof WebAssembly === "undefined") throw new Error("This browser has no WebAssembly, which onnxruntime-web needs");
  const url = RUNTIME + BUNDLES[backend];
  let ort;
  try {
    ort = await import(url);
  } catch {
    throw new Error(`${url} is missing: run "npm install" in examples/web`);
  }
  ort.env.wasm.wasmPaths = RUNTIME;
  ort.env.wasm.numThreads = crossOriginIsolated ? Math.min(navigator.hardwareConcurrency, MAX_THREADS) : 1;
  ort.env.wasm.proxy = backend === "wasm"; // in a worker, so that the page answers meanwhile; WebGPU cannot
  return ort;
}

/**
 * Fit an ImageData into height x width, keeping its aspect ratio, in the middle of a grey border; with a stride the
 * border goes to the next multiple of it only.
 *
 * Returns data: float32 RGB, 0 to 1, of a shape [1, 3, rows, columns]; ratio, left, top (the model's pixel = ratio * the
 * picture's + border); width, height of the picture. Rounds as cv2.resize does for bytes.
 */
export function letterbox(image, height, width, stride = null) {
  const ratio = Math.min(height / image.height, width / image.width);
  const innerWidth = Math.max(roundHalfEven(image.width * ratio), 1);
  const innerHeight = Math.max(roundHalfEven(image.height * ratio), 1);
  if (stride) {
    width = Math.ceil(innerWidth / stride) * stride;
    height = Math.ceil(innerHeight / stride) * stride;
  }
  const left = (width - innerWidth) / 2;
  const top = (height - innerHeight) / 2;
  const firstColumn = Math.floor(left); // an odd border has its extra pixel at the right or bottom
  const firstRow = Math.floor(top);
  const columns = taps(image.width, innerWidth);
  const lines = taps(image.height, innerHeight);
  const plane = width * height;
  const data = new Float32Array(3 * plane).fill(GREY / 255);
  const pixels = image.data;
  for (let row = 0; row < innerHeight; row++) {
    const upper = lines.first[row] * image.width;
    const lower = lines.second[row] * image.width;
    const down = lines.weight[row];
    let to = (firstRow + row) * width + firstColumn;
    for (let column = 0; column < innerWidth; column++, to++) {
      const a = columns.first[column];
      const b = columns.second[column];
      const right = columns.weight[column];
      for (let channel = 0; channel < 3; channel++) {
        const at = (index) => pixels[4 * index + channel];
        const high = at(upper + a) + (at(upper + b) - at(upper + a)) * right;
        const low = at(lower + a) + (at(lower + b) - at(lower + a)) * right;
        data[channel * plane + to] = Math.round(high + (low - high) * down) / 255;
      }
    }
  }
  const shape = [1, 3, height, width];
  return { data, shape, ratio, left, top, width: image.width, height: image.height };
}

/** For each of `to` pixels in a line, the two of `from` pixels that it lies between, and the second one's weight. */
function taps(from, to) {
  const result = { first: new Int32Array(to), second: new Int32Array(to), weight: new Float32Array(to) };
  for (let i = 0; i < to; i++) {
    const place = Math.min(Math.max(((i + 0.5) * from) / to - 0.5, 0), from - 1);
    const first = Math.floor(place);
    result.first[i] = first;
    result.second[i] = Math.min(first + 1, from - 1);
    result.weight[i] = place - first;
  }
  return result;
}

function roundHalfEven(value) {
  const down = Math.floor(value);
  return value - down === 0.5 ? down + (down % 2) : Math.round(value);
}

function dropAlpha(image) {
  const rgb = new Uint8Array(3 * image.width * image.height);
  for (let from = 0, to = 0; to < rgb.length; from += 4, to += 3) {
    rgb[to] = image.data[from];
    rgb[to + 1] = image.data[from + 1];
    rgb[to + 2] = image.data[from + 2];
  }
  return rgb;
}

/** Greedy NMS of boxes sorted by confidence: drop what overlaps a kept box of the same class by more than `iou`. */
export function suppress(sorted, iou) {
  const kept = [];
  for (const box of sorted) {
    if (kept.every((other) => other.class !== box.class || overlap(other.xyxy, box.xyxy) <= iou)) kept.push(box);
  }
  return kept;
}

function overlap(a, b) {
  const width = Math.max(Math.min(a[2], b[2]) - Math.max(a[0], b[0]), 0);
  const height = Math.max(Math.min(a[3], b[3]) - Math.max(a[1], b[1]), 0);
  const area = (box) => (box[2] - box[0]) * (box[3] - box[1]);
  return (width * height) / (area(a) + area(b) - width * height);
}

/** names, imgsz, output and thresholds from an .onnx file's metadata_props, which onnxruntime-web does not show. */
export function readInfo(bytes, file) {
  let props;
  try {
    props = readMetadata(bytes);
  } catch {
    throw new Error(`${file}: expected an ONNX model, found something else`);
  }
  if (!props.names) throw new Error(`${file}: expected the class names in its metadata, found none`);
  const output = props.output ? JSON.parse(props.output) : "raw";
  if (!["raw", "boxes", "image"].includes(output)) {
    throw new Error(`${file}: expected the output raw, boxes or image, found ${output}`);
  }
  const imgsz = props.imgsz ? JSON.parse(props.imgsz) : [];
  const size = imgsz.length === 2 ? imgsz : [DEFAULT_SIZE, DEFAULT_SIZE];
  const own = props.thresholds ? JSON.parse(props.thresholds) : {};
  const thresholds = own.conf?.length ? own : null;
  return { names: parseNames(props.names), imgsz: size, stride: Number(props.stride ?? 32), output, thresholds };
}

/** {"0": "cat"} as JSON, or {0: 'cat'} as Python writes it, which is what YOLOv5's own files have. */
function parseNames(text) {
  try {
    return JSON.parse(text);
  } catch {
    return Object.fromEntries([...text.matchAll(/(\d+): (['"])(.*?)\2/g)].map((match) => [match[1], match[3]]));
  }
}

const METADATA_PROPS = 14; // field of onnx.proto's ModelProto, a list of {key = 1, value = 2}

function readMetadata(bytes) {
  const text = (field) => new TextDecoder("utf-8", { fatal: true }).decode(field);
  const model = readFields(bytes);
  if (!model.some(({ number }) => number === 7)) throw new Error("no graph");
  const entries = model.filter(({ number }) => number === METADATA_PROPS).map(({ value }) => {
    const fields = Object.fromEntries(readFields(value).map((field) => [field.number, text(field.value)]));
    return [fields[1] ?? "", fields[2] ?? ""];
  });
  return Object.fromEntries(entries);
}

/** [{number, value}] of a protobuf message: a number for a varint, bytes for everything else. */
function readFields(bytes) {
  const fields = [];
  let at = 0;
  const varint = () => {
    let value = 0;
    for (let factor = 1; ; factor *= 128) {
      if (at >= bytes.length) throw new Error("cut off");
      const byte = bytes[at++];
      value += (byte & 127) * factor; // not by shifts, which end at 32 bits
      if (byte < 128) return value;
    }
  };
  while (at < bytes.length) {
    const tag = varint();
    const number = Math.floor(tag / 8);
    const kind = tag % 8;
    if (![0, 1, 2, 5].includes(kind) || number === 0) throw new Error("not protobuf");
    if (kind === 0) {
      fields.push({ number, value: varint() });
      continue;
    }
    const length = kind === 2 ? varint() : kind === 1 ? 8 : 4;
    if (at + length > bytes.length) throw new Error("cut off");
    fields.push({ number, value: bytes.subarray(at, at + length) });
    at += length;
  }
  return fields;
}
