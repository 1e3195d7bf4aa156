"""Side-by-side measurements: python -m bench, see README.md here."""

# name -> (what it measures, packages that its opponent needs besides requirements.txt)
BENCHES = {
    "backbone": ("forward pass of the EdgeViT backbones", ()),
    "backbone_train": ("forward and backward pass of the EdgeViT backbones", ()),
    "detector": ("forward pass of the whole EdgeViT-XXS detector", ()),
    "detect": ("detect.py over a folder of pictures, the whole process", ()),
    "val": ("val.py over a data set, the whole process", ("pycocotools",)),
    "nms": ("non-maximum suppression", ()),
    "data": ("training pictures: mosaic, affine, HSV, flips", ()),
    "train": ("an epoch of training", ()),
    "ap": ("average precision of a large data set", ("pycocotools",)),
    "startup": ("--help, and the first box of a picture", ()),
    "onnx": ("ONNX Runtime", ("onnx", "onnxscript", "onnxruntime")),
    "serve": ("serve.py with 64 clients", ("flask", "onnx", "onnxscript", "onnxruntime")),
    "busy": ("one picture, a training step and val.py beside another busy process", ()),
    "limit": ("share of this machine's matrix-product rate that the models reach", ()),
    "tile": ("tiles of large pictures: time, AP, objects on seams", ("sahi",)),
    "track": ("ids in drawn videos: MOTA, IDF1, HOTA", ("trackers", "trackeval")),
    "growth": ("time and memory over the size of the data set and of the image", ()),
}
