// detect model.onnx image [confidence] [iou]
//
// Prints the objects of an image with a detector that `export.py --include onnx` wrote (with or without --nms, --dynamic
// or --embed), one a line, tabs between: class, name, confidence, left, top, right, bottom in the image's pixels. They
// are those of detect.py. Without a confidence each class has the threshold that `val.py --write-thresholds` left in the
// model, if any, and the calibrated confidence is printed. The exit code is 0; 1 with one line on stderr for input that
// does not fit; 2 for wrong usage.

#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <opencv2/core.hpp>
#include <opencv2/core/utils/logger.hpp>
#include <opencv2/imgcodecs.hpp>
#include <opencv2/imgproc.hpp>
#include <optional>
#include <regex>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

// ONNX Runtime sends what it runs unless this is set before its first object; a value of the user's stays.
void turnTelemetryOff() {
  if (std::getenv("ORT_DISABLE_TELEMETRY")) return;
#ifdef _WIN32
  _putenv_s("ORT_DISABLE_TELEMETRY", "1");
#else
  setenv("ORT_DISABLE_TELEMETRY", "1", 0);
#endif
}

constexpr int kDefaultSize = 640;  // where neither the input's shape nor the metadata says
constexpr float kConfidence = 0.25f;  // where neither the command nor the model has a threshold
constexpr size_t kMaxBoxes = 1000;  // detect.py's --max-det
const cv::Scalar kGrey(114, 114, 114);  // of the border

struct Box {
  float x1, y1, x2, y2;  // pixels
  float confidence;
  int cls;
};

// Where the model's pixels are in the image: model = ratio * image + (left, top).
struct Frame {
  double ratio = 1, left = 0, top = 0;
};

void append_utf8(std::string& text, unsigned code) {
  if (code < 0x80) {
    text += static_cast<char>(code);
  } else if (code < 0x800) {
    text += {static_cast<char>(0xC0 | code >> 6), static_cast<char>(0x80 | (code & 63))};
  } else if (code < 0x10000) {
    text += {static_cast<char>(0xE0 | code >> 12), static_cast<char>(0x80 | (code >> 6 & 63)),
             static_cast<char>(0x80 | (code & 63))};
  } else {
    text += {static_cast<char>(0xF0 | code >> 18), static_cast<char>(0x80 | (code >> 12 & 63)),
             static_cast<char>(0x80 | (code >> 6 & 63)), static_cast<char>(0x80 | (code & 63))};
  }
}

// The string, with JSON's escapes, that begins at text[at], a quotation mark; moves `at` behind its end.
std::string quoted(const std::string& text, size_t& at) {
  const char mark = text[at];
  const auto unicode = [&](size_t place) { return std::stoul(text.substr(place, 4), nullptr, 16); };
  std::string value;
  for (++at; at < text.size() && text[at] != mark; ++at) {
    if (text[at] != '\\') {
      value += text[at];
      continue;
    }
    const char escape = text.at(++at);
    if (escape == 'u') {
      unsigned long code = unicode(at + 1);
      at += 4;
      if (code >= 0xD800 && code < 0xDC00) {  // the first half of a pair
        code = 0x10000 + ((code - 0xD800) << 10) + (unicode(at + 3) - 0xDC00);
        at += 6;
      }
      append_utf8(value, static_cast<unsigned>(code));
    } else {
      const std::string escapes = "nrtbf", meant = "\n\r\t\b\f";
      const size_t index = escapes.find(escape);
      value += index == std::string::npos ? escape : meant[index];
    }
  }
  ++at;
  return value;
}

// From {"0": "cat", "1": "dog"}, or {0: 'cat', 1: 'dog'} as YOLOv5's own files have it.
std::map<int, std::string> parse_names(const std::string& text) {
  static const std::regex entry(R"re((\d+)"?: *(["']))re");
  std::map<int, std::string> names;
  std::smatch match;
  for (size_t at = 0; std::regex_search(text.begin() + at, text.end(), match, entry);) {
    const int number = std::stoi(match[1]);
    at += match.position(2);
    names[number] = quoted(text, at);
  }
  return names;
}

// The numbers of a list in a JSON object: [0.5, 0.25] for "conf" from {"conf": [0.5, 0.25]}. Empty if there is none.
std::vector<float> parse_numbers(const std::string& text, const std::string& key) {
  std::smatch match;
  if (!std::regex_search(text, match, std::regex('"' + key + R"re(": *\[([^\]]*)\])re"))) return {};
  const std::string list = match[1];
  static const std::regex number(R"re([-+.\deE]+)re");
  std::vector<float> values;
  for (std::sregex_iterator at(list.begin(), list.end(), number), end; at != end; ++at)
    values.push_back(std::stof(at->str()));
  return values;
}

// A model's own thresholds, as in models/backends/thresholds.py.
struct Thresholds {
  std::vector<float> conf;             // by class
  std::vector<float> scores, chances;  // the chance of being right at rising confidences; may be empty

  explicit Thresholds(const std::string& json)
      : conf(parse_numbers(json, "conf")),
        scores(parse_numbers(json, "scores")),
        chances(parse_numbers(json, "chances")) {
    if (scores.size() != chances.size())
      throw std::runtime_error("expected as many chances as scores in its thresholds, found " +
                               std::to_string(chances.size()) + " and " + std::to_string(scores.size()));
  }

  float least() const { return conf.empty() ? kConfidence : *std::min_element(conf.begin(), conf.end()); }

  float of(int cls) const { return static_cast<size_t>(cls) < conf.size() ? conf[cls] : kConfidence; }

  // The chance that a box of this confidence is right, on the line between the two scores beside it.
  float chance(float confidence) const {
    if (scores.empty()) return confidence;
    const size_t next = std::lower_bound(scores.begin(), scores.end(), confidence) - scores.begin();
    if (next == 0) return chances.front();
    if (next == scores.size()) return chances.back();
    const float share = (confidence - scores[next - 1]) / (scores[next] - scores[next - 1]);
    return chances[next - 1] + share * (chances[next] - chances[next - 1]);
  }
};

class Detector {
 public:
  explicit Detector(const std::string& file)
      : env_(ORT_LOGGING_LEVEL_ERROR),
        session_(env_, native(file).c_str(), Ort::SessionOptions()),
        thresholds_(metadata("thresholds")) {
    const std::string names = metadata("names"), output = metadata("output"), imgsz = metadata("imgsz");
    names_ = parse_names(names);
    if (names_.empty()) throw std::runtime_error("expected class names in its metadata, found '" + names + "'");
    output_ = output.empty() ? "raw" : output.substr(1, output.size() - 2);
    if (output_ != "raw" && output_ != "boxes" && output_ != "image")
      throw std::runtime_error("expected the output raw, boxes or image, found '" + output_ + "'");
    const auto shape = session_.GetInputTypeInfo(0).GetTensorTypeAndShapeInfo().GetShape();
    if (shape.size() != (output_ == "image" ? 3u : 4u))
      throw std::runtime_error("expected one image as input, found " + std::to_string(shape.size()) + " dimensions");
    if (output_ == "image") return;
    if (shape[0] > 1) throw std::runtime_error("expected a batch of 1, found " + std::to_string(shape[0]));
    fixed_ = shape[2] > 0 && shape[3] > 0;  // -1: dynamic
    if (fixed_) {
      size_ = cv::Size(static_cast<int>(shape[3]), static_cast<int>(shape[2]));
    } else if (std::sscanf(imgsz.c_str(), "[%d, %d]", &size_.height, &size_.width) != 2) {
      size_ = cv::Size(kDefaultSize, kDefaultSize);
    }
    stride_ = std::max(std::atoi(metadata("stride").c_str()), 1);
  }

  // The objects of a BGR image, by falling confidence. Without one, the model's own thresholds count.
  std::vector<Box> detect(const cv::Mat& image, std::optional<float> confidence, float iou) {
    Frame frame;
    cv::Mat rgb;
    cv::cvtColor(output_ == "image" ? image : letterbox(image, frame), rgb, cv::COLOR_BGR2RGB);
    std::vector<Box> boxes = read(run(rgb), confidence);
    std::stable_sort(boxes.begin(), boxes.end(), [](auto& a, auto& b) { return a.confidence > b.confidence; });
    if (output_ == "raw") boxes = suppress(boxes, iou);
    if (boxes.size() > kMaxBoxes) boxes.resize(kMaxBoxes);
    const auto place = [&](float value, double border, int limit) {
      return static_cast<float>(std::nearbyint(std::clamp((value - border) / frame.ratio, 0.0, double(limit))));
    };
    for (Box& box : boxes) {
      box.x1 = place(box.x1, frame.left, image.cols);
      box.y1 = place(box.y1, frame.top, image.rows);
      box.x2 = place(box.x2, frame.left, image.cols);
      box.y2 = place(box.y2, frame.top, image.rows);
      if (!confidence) box.confidence = thresholds_.chance(box.confidence);
    }
    return boxes;
  }

  std::string name(int cls) const {
    const auto found = names_.find(cls);
    return found == names_.end() ? std::to_string(cls) : found->second;
  }

 private:
  static std::basic_string<ORTCHAR_T> native(const std::string& file) { return {file.begin(), file.end()}; }

  std::string metadata(const char* key) const {
    Ort::AllocatorWithDefaultOptions allocator;
    const auto value = session_.GetModelMetadata().LookupCustomMetadataMapAllocated(key, allocator);
    return value ? value.get() : "";
  }

  // The image at the model's size: its aspect ratio kept, in the middle of a grey border. Where the model takes any
  // size, the border goes to the next multiple of the stride only.
  cv::Mat letterbox(const cv::Mat& image, Frame& frame) const {
    frame.ratio = std::min(double(size_.height) / image.rows, double(size_.width) / image.cols);
    const auto scaled = [&](int side) { return std::max(static_cast<int>(std::nearbyint(side * frame.ratio)), 1); };
    const cv::Size inner(scaled(image.cols), scaled(image.rows));
    const auto border = [&](int whole, int part) { return fixed_ ? whole - part : (whole - part) % stride_; };
    const int across = border(size_.width, inner.width), down = border(size_.height, inner.height);
    frame.left = across / 2.0;
    frame.top = down / 2.0;
    cv::Mat resized = image, padded;
    if (inner != image.size()) cv::resize(image, resized, inner, 0, 0, cv::INTER_LINEAR);
    // an odd border has its extra pixel at the right or bottom
    const int left = across / 2, top = down / 2;
    cv::copyMakeBorder(resized, padded, top, down - top, left, across - left, cv::BORDER_CONSTANT, kGrey);
    return padded;
  }

  std::vector<Ort::Value> run(const cv::Mat& rgb) {
    const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    const std::array<int64_t, 3> hwc = {rgb.rows, rgb.cols, 3};
    const std::array<int64_t, 4> nchw = {1, 3, rgb.rows, rgb.cols};
    std::vector<float> planes;
    Ort::Value input{nullptr};
    if (output_ == "image") {
      input = Ort::Value::CreateTensor<uint8_t>(memory, rgb.data, rgb.total() * 3, hwc.data(), hwc.size());
    } else {
      planes.resize(rgb.total() * 3);
      for (size_t i = 0; i < rgb.total(); ++i)
        for (size_t channel = 0; channel < 3; ++channel)
          planes[channel * rgb.total() + i] = rgb.data[3 * i + channel] / 255.0f;
      input = Ort::Value::CreateTensor<float>(memory, planes.data(), planes.size(), nchw.data(), nchw.size());
    }
    Ort::AllocatorWithDefaultOptions allocator;
    std::vector<Ort::AllocatedStringPtr> names;
    std::vector<const char*> outputs;
    for (size_t i = 0; i < session_.GetOutputCount(); ++i) {
      names.push_back(session_.GetOutputNameAllocated(i, allocator));
      outputs.push_back(names.back().get());
    }
    const auto input_name = session_.GetInputNameAllocated(0, allocator);
    const char* inputs[] = {input_name.get()};
    return session_.Run(Ort::RunOptions{nullptr}, inputs, &input, 1, outputs.data(), outputs.size());
  }

  // The model's outputs above `confidence`, or each class's own, xyxy in its pixels.
  std::vector<Box> read(const std::vector<Ort::Value>& outputs, std::optional<float> confidence) const {
    const auto shape = outputs[0].GetTensorTypeAndShapeInfo().GetShape();
    const float* data = outputs[0].GetTensorData<float>();
    const float least = confidence.value_or(thresholds_.least());
    std::vector<Box> boxes;
    const auto add = [&](Box box) {
      if (box.confidence > confidence.value_or(thresholds_.of(box.cls))) boxes.push_back(box);
    };
    if (output_ == "image") {  // [n, 4], [n], [n]
      const float* scores = outputs[1].GetTensorData<float>();
      const int64_t* classes = outputs[2].GetTensorData<int64_t>();
      for (int64_t i = 0; i < shape[0]; ++i, data += 4)
        add({data[0], data[1], data[2], data[3], scores[i], static_cast<int>(classes[i])});
      return boxes;
    }
    for (int64_t i = 0; i < shape[1]; ++i, data += shape[2]) {
      if (output_ == "boxes") {  // [1, n, 6]: xyxy, confidence, class
        add({data[0], data[1], data[2], data[3], data[4], static_cast<int>(data[5])});
      } else if (data[4] > least) {  // [1, n, 5 + classes]: xywh, objectness, class scores
        const float* best = std::max_element(data + 5, data + shape[2]);
        const float half_w = data[2] / 2, half_h = data[3] / 2;
        add({data[0] - half_w, data[1] - half_h, data[0] + half_w, data[1] + half_h, data[4] * *best,
             static_cast<int>(best - data - 5)});
      }
    }
    return boxes;
  }

  // Greedy NMS of boxes sorted by confidence: drop what overlaps a kept box of the same class by more than `iou`.
  static std::vector<Box> suppress(const std::vector<Box>& sorted, float iou) {
    const auto area = [](const Box& box) { return (box.x2 - box.x1) * (box.y2 - box.y1); };
    const auto overlap = [&](const Box& a, const Box& b) {
      const float width = std::max(std::min(a.x2, b.x2) - std::max(a.x1, b.x1), 0.0f);
      const float height = std::max(std::min(a.y2, b.y2) - std::max(a.y1, b.y1), 0.0f);
      return width * height / (area(a) + area(b) - width * height);
    };
    std::vector<Box> kept;
    for (const Box& box : sorted) {
      const auto covers = [&](const Box& other) { return other.cls == box.cls && overlap(other, box) > iou; };
      if (std::none_of(kept.begin(), kept.end(), covers)) kept.push_back(box);
    }
    return kept;
  }

  Ort::Env env_;
  Ort::Session session_;
  Thresholds thresholds_;
  std::map<int, std::string> names_;
  std::string output_;  // raw, boxes or image, as in models/backends/metadata.py
  bool fixed_ = false;
  cv::Size size_;
  int stride_ = 32;
};

// A number from 0 to 1; exits with a line that names `what` if the text is none.
float share(const char* what, const char* text) {
  char* end = nullptr;
  const float value = std::strtof(text, &end);
  if (end == text || *end != '\0' || !(value >= 0 && value <= 1)) {
    std::fprintf(stderr, "error: %s: expected a number from 0 to 1, found %s\n", what, text);
    std::exit(2);
  }
  return value;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3 || argc > 5) {
    std::fprintf(stderr, "usage: detect model.onnx image [confidence 0.25, or the model's own] [iou 0.45]\n");
    return 2;
  }
  turnTelemetryOff();
  const auto confidence = argc > 3 ? std::optional(share("confidence", argv[3])) : std::nullopt;
  const float iou = argc > 4 ? share("iou", argv[4]) : 0.45f;
  cv::utils::logging::setLogLevel(cv::utils::logging::LOG_LEVEL_SILENT);  // the line below says it
  const cv::Mat image = cv::imread(argv[2], cv::IMREAD_COLOR);
  if (image.empty()) {
    std::fprintf(stderr, "error: %s: expected an image, found no file or one that OpenCV cannot read\n", argv[2]);
    return 1;
  }
  try {
    Detector detector(argv[1]);
    for (const Box& box : detector.detect(image, confidence, iou))
      std::printf("%d\t%s\t%.4f\t%.0f\t%.0f\t%.0f\t%.0f\n", box.cls, detector.name(box.cls).c_str(), box.confidence,
                  box.x1, box.y1, box.x2, box.y2);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s: %s\n", argv[1], error.what());
    return 1;
  }
  return 0;
}
