"""The way of a picture into the network, as in detect.py, in ONNX's text form: see onnx_graph.py.

Sizes as in utils.augmentations.letterbox(auto=True), pixels as in OpenCV's bilinear interpolation of uint8. ONNX's own
Resize differs from that by a level of grey in one pixel of ten, which is enough to make NMS choose another box. Here it
is a few in a million: float32 cannot hold the largest products whole. In names, hw is height and width.
"""

import numpy as np

from models.backends.base import ExportSpec
from models.backends.metadata import Metadata
from utils.data.images import GREY

SIGNATURE = (
    "letterbox (uint8[height, width, 3] image) => "
    "(float[1, 3, h, w] images, float[1] ratio, float[4] shift_xyxy, float[4] limit_xyxy)"
)
# In float64, as in Python, so that they are rounded to the same pixel. `inner` is the picture without its borders
SIZES = """
    image_shape = Shape (image)
    image_hw_int = Gather (image_shape, height_and_width)
    image_hw = Cast <to = 11> (image_hw_int)
    ratios = Div (target_hw, image_hw)
    ratio_64 = ReduceMin (ratios)
    scaled_hw = Mul (image_hw, ratio_64)
    rounded_hw = Round (scaled_hw)
    inner_hw = Max (rounded_hw, one_64)
    growth_hw = Div (inner_hw, image_hw)
    step_hw = Reciprocal (growth_hw)
    last_hw_64 = Sub (image_hw, one_64)
    last_hw = Cast <to = 1> (last_hw_64)
"""
# For each column (AXIS is x) or row (y) of the inner picture: the two of the image that it lies between, and what each
# of them counts, in whole 2048ths
NEIGHBOURS = """
    AXIS_length = Gather (inner_hw, AXIS)
    AXIS_step = Gather (step_hw, AXIS)
    AXIS_last = Gather (last_hw, AXIS)
    AXIS_number = Range (zero_64, AXIS_length, one_64)
    AXIS_middle = Add (AXIS_number, half_64)
    AXIS_middle_in_image = Mul (AXIS_middle, AXIS_step)
    AXIS_place_64 = Sub (AXIS_middle_in_image, half_64)
    AXIS_place = Cast <to = 1> (AXIS_place_64)
    AXIS_floor = Floor (AXIS_place)
    AXIS_next = Add (AXIS_floor, one)
    AXIS_low_clipped = Clip (AXIS_floor, zero, AXIS_last)
    AXIS_high_clipped = Clip (AXIS_next, zero, AXIS_last)
    AXIS_low = Cast <to = 7> (AXIS_low_clipped)
    AXIS_high = Cast <to = 7> (AXIS_high_clipped)

    AXIS_high_share = Sub (AXIS_place, AXIS_floor)
    AXIS_low_share = Sub (one, AXIS_high_share)
    AXIS_high_2048 = Mul (AXIS_high_share, steps)
    AXIS_low_2048 = Mul (AXIS_low_share, steps)
    AXIS_high_whole = Round (AXIS_high_2048)
    AXIS_low_whole = Round (AXIS_low_2048)
    AXIS_high_column = Unsqueeze (AXIS_high_whole, AXIS_new_axes)
    AXIS_low_column = Unsqueeze (AXIS_low_whole, AXIS_new_axes)
    AXIS_high_weight = Mul (AXIS_high_column, AXIS_unit)
    AXIS_low_weight = Mul (AXIS_low_column, AXIS_unit)
"""
# The share of the upper (SIDE is low) or lower (high) row, in quarters of a level. OpenCV cuts off after each direction
ROW = """
    SIDE_rows = Gather <axis = 0> (image, y_SIDE)
    SIDE_left_uint8 = Gather <axis = 1> (SIDE_rows, x_low)
    SIDE_right_uint8 = Gather <axis = 1> (SIDE_rows, x_high)
    SIDE_left = Cast <to = 1> (SIDE_left_uint8)
    SIDE_right = Cast <to = 1> (SIDE_right_uint8)
    SIDE_left_share = Mul (SIDE_left, x_low_weight)
    SIDE_right_share = Mul (SIDE_right, x_high_weight)
    SIDE_mixed = Add (SIDE_left_share, SIDE_right_share)
    SIDE_cut = Floor (SIDE_mixed)
    SIDE_weighed = Mul (SIDE_cut, y_SIDE_weight)
    SIDE_quarters = Floor (SIDE_weighed)
"""
PICTURE = """
    quarters = Add (low_quarters, high_quarters)
    quarters_and_half = Add (quarters, two)
    levels = Mul (quarters_and_half, quarter)
    whole_levels = Floor (levels)
    planes = Transpose <perm = [2, 0, 1]> (whole_levels)
    inner = Unsqueeze (planes, first_axis)

    spare_hw_64 = Sub (target_hw, inner_hw)
    spare_hw = Cast <to = 7> (spare_hw_64)
    pad_hw = Mod (spare_hw, stride)
    before_hw = Div (pad_hw, two_int)
    after_hw = Sub (pad_hw, before_hw)
    pads = Concat <axis = 0> (no_pad, before_hw, no_pad, after_hw)
    padded = Pad (inner, pads, grey)
    images = Div (padded, white)
"""
# The values that utils.boxes.scale_boxes() needs.
WAY_BACK = """
    ratio = Cast <to = 1> (ratio_64)
    float_pad_hw = Cast <to = 1> (pad_hw)
    half_pad_hw = Mul (float_pad_hw, half)
    shift_xyxy = Gather (half_pad_hw, xyxy_of_hw)
    float_image_hw = Cast <to = 1> (image_hw)
    limit_xyxy = Gather (float_image_hw, xyxy_of_hw)
"""


def text() -> str:
    """Return the letterbox's nodes, to go with SIGNATURE and constants()."""
    neighbours = [NEIGHBOURS.replace("AXIS", axis) for axis in ("y", "x")]
    rows = [ROW.replace("SIDE", side) for side in ("low", "high")]
    return "".join([SIZES, *neighbours, *rows, PICTURE, WAY_BACK])


def constants(spec: ExportSpec, metadata: Metadata) -> dict:
    """Return {name: array} of the text's constants."""
    float64 = {"target_hw": spec.imgsz, "zero_64": 0, "one_64": 1, "half_64": 0.5}
    float32 = {
        "zero": 0,
        "one": 1,
        "two": 2,
        "half": 0.5,
        "quarter": 0.25,
        "steps": 2048,
        "x_unit": [[1 / 16] * 3],  # three equal ones: to multiply [h, w, 3] by [w, 1] takes ten times as long
        "y_unit": 1 / 65536,  # 2048 * 2048 / 16 / 65536 = 4: quarters of a level
        "grey": GREY,
        "white": 255,
    }
    int64 = {
        "y": 0,
        "x": 1,
        "y_new_axes": [1, 2],
        "x_new_axes": [1],
        "height_and_width": [0, 1],
        "xyxy_of_hw": [1, 0, 1, 0],
        "first_axis": [0],
        "no_pad": [0, 0],
        "two_int": 2,
        "stride": metadata.stride,
    }
    typed = (float64, np.float64), (float32, np.float32), (int64, np.int64)
    return {name: np.asarray(value, dtype) for values, dtype in typed for name, value in values.items()}
