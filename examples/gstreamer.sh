#!/bin/sh
# Detect in a video with GStreamer and NNStreamer, on the folder of `export.py --for nnstreamer`. Not run here: it needs
# NNStreamer with its ONNX Runtime filter.
#
#     examples/gstreamer.sh best_nnstreamer clip.mp4 640
set -eu
folder=$1 video=$2 size=${3:-640}
exec gst-launch-1.0 \
    filesrc location="$video" ! decodebin ! videoconvert ! videoscale add-borders=true ! \
    "video/x-raw,width=$size,height=$size,format=RGB,pixel-aspect-ratio=1/1" ! tee name=t \
    t. ! queue ! tensor_converter ! tensor_transform mode=typecast option=float32 ! \
    tensor_transform mode=arithmetic option=div:255 ! tensor_transform mode=transpose option=1:2:0:3 ! \
    tensor_filter framework=onnxruntime model="$folder"/best.onnx ! \
    tensor_decoder mode=bounding_boxes option1=yolov5 option2="$folder"/labels.txt option3=1:0.25:0.45 \
    option4="$size:$size" option5="$size:$size" ! queue ! mix. \
    t. ! queue ! videoconvert ! mix. \
    compositor name=mix sink_0::zorder=2 sink_1::zorder=1 ! videoconvert ! autovideosink
