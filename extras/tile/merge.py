"""Boxes that were found in several views of a picture become those of the picture. Imports numpy alone.

A box that touches a border of its view inside the picture may be a piece of an object; others are whole. Two whole
boxes are one object if they overlap enough. A piece is compared where both views look: it belongs to an object if it is
the part that its view sees of it. Pieces of an object that no view shows as a whole are joined.
"""

import numpy as np

TOUCH_PX = 4.0  # a piece ends so near to the border of its view
TOUCH_SHARE = 0.01  # of the view's side, if that is more
BLOCK = 256  # boxes that are compared with all others at once


def merge_views(boxes, view, views_xyxy, iou_thres: float, agnostic: bool = False, max_det: int = 300) -> np.ndarray:
    """Return the picture's boxes, float32 [m, 6] by falling confidence, m <= max_det.

    boxes: [n, 6] xyxy in pixels of the picture, confidence, class; after the NMS of each view.
    view: int [n], the row of views_xyxy [k, 4] in which each was found; row 0 is the whole picture.
    """
    boxes = np.asarray(boxes, np.float32).reshape(-1, 6)
    pieces = is_piece(boxes, views_xyxy[view], views_xyxy[0])
    order = np.lexsort([-boxes[:, 4], pieces])  # whole boxes first, each kind by falling confidence
    boxes, view, pieces = boxes[order], np.asarray(view)[order], pieces[order]
    group = np.zeros(len(boxes)) if agnostic else boxes[:, 5]
    merged = [np.zeros((0, 6), np.float32)]
    for cls in np.unique(group):
        mine = np.flatnonzero(group == cls)
        same = same_object(boxes[mine], views_xyxy[view[mine]], pieces[mine], iou_thres)
        merged.append(_merged(boxes[mine], view[mine], pieces[mine], same))
    found = np.concatenate(merged)
    return found[np.argsort(-found[:, 4], kind="stable")[:max_det]]


def is_piece(boxes, view_xyxy, picture_xyxy) -> np.ndarray:
    """Return which boxes [n, 4+] touch a border of their view [n, 4] that is no border of the picture: bool [n]."""
    sides = np.tile(view_xyxy[:, 2:] - view_xyxy[:, :2], 2)
    near = np.abs(boxes[:, :4] - view_xyxy) <= np.maximum(TOUCH_PX, TOUCH_SHARE * sides)
    return (near & (view_xyxy != picture_xyxy)).any(1)


def same_object(boxes, view_xyxy, pieces, iou_thres: float) -> np.ndarray:
    """Return which boxes [n, 4+] show one object: bool [n, n]; view_xyxy [n, 4] and pieces [n] are theirs."""
    same = np.zeros((len(boxes), len(boxes)), bool)
    for start in range(0, len(boxes), BLOCK):
        part = slice(start, start + BLOCK)
        shared = _cut(view_xyxy[part, None], view_xyxy[None])
        everywhere = np.array([-np.inf, -np.inf, np.inf, np.inf], np.float32)
        compared = np.where((pieces[part, None] | pieces[None])[..., None], shared, everywhere)
        same[part] = _iou(_cut(boxes[part, None, :4], compared), _cut(boxes[None, :, :4], compared)) > iou_thres
    return same


def _cut(boxes, others) -> np.ndarray:
    """Return what boxes [..., 4] share with others, as xyxy; without width or height where they share nothing."""
    low, high = np.maximum(boxes[..., :2], others[..., :2]), np.minimum(boxes[..., 2:], others[..., 2:])
    return np.concatenate([low, np.maximum(high, low)], -1)


def _iou(a, b) -> np.ndarray:
    """Return the IoU [...] of pairs of boxes [..., 4]; 0 where both are empty."""
    shared = _area(_cut(a, b))
    return shared / np.maximum(_area(a) + _area(b) - shared, np.finfo(np.float32).tiny)


def _area(boxes) -> np.ndarray:
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def _merged(boxes, view, pieces, same) -> np.ndarray:
    """Return the objects [m, 6] of one class, from boxes in merge_views()'s order and same_object() of them.

    A whole box stands for all that show its object, with the highest of their confidences.
    """
    free = np.ones(len(boxes), bool)
    found = []
    for i in range(len(boxes)):
        if not free[i]:
            continue
        free[i] = False
        box = boxes[i].copy()
        members = [i] if not pieces[i] else _pieces_of_one(i, view, same, free)
        taken = free & same[members].any(0)
        box[:2], box[2:4] = boxes[members, :2].min(0), boxes[members, 2:4].max(0)
        box[4] = max(box[4], boxes[taken, 4].max(initial=0))
        free &= ~taken
        found.append(box)
    return np.array(found, np.float32).reshape(-1, 6)


def _pieces_of_one(first: int, view, same, free) -> list[int]:
    """Return the pieces of the object of piece `first`: from view to view the most confident one that fits."""
    members, views = [first], {int(view[first])}
    for member in members:  # it grows meanwhile
        for other in np.flatnonzero(same[member] & free).tolist():
            if int(view[other]) not in views:
                members.append(other)
                views.add(int(view[other]))
    return members
