"""The chance that a box of some confidence is right: a rising curve over confidence, chosen by cross-validation.

temperature  the logit of the confidence, scaled and shifted (Platt, 1999; Guo et al., arXiv 1706.04599)
isotonic     the rising step function of least squares, by pooling neighbours (Ayer et al., 1955)
"""

from dataclasses import dataclass, field

import numpy as np

FROM = 0.05  # boxes of less confidence are nearly all wrong, and so many that nothing else would count
FOLDS = 5
BINS = 10  # of the expected calibration error
LEAST_BOXES = 50
LOGITS = np.linspace(-9, 9, 61)  # where the curve of the temperature is stored
MOST_POINTS = 64
LEAST_CHANCE = 1e-4  # nobody can say less, or more than 1 less this, from so few boxes
STEPS = 30  # of Newton's method, which needs six or so
RIDGE = 1e-6  # keeps it finite where one confidence parts right from wrong


@dataclass(frozen=True)
class Curve:
    """The chance of being right at rising confidences; it is straight between them."""

    scores: np.ndarray
    chances: np.ndarray

    def __call__(self, confidence) -> np.ndarray:
        return np.interp(confidence, self.scores, self.chances)


AS_IT_IS = Curve(np.array([0.0, 1.0]), np.array([0.0, 1.0]))


@dataclass(frozen=True)
class Calibration:
    """The chosen curve; the errors are those on images that it was not fitted to."""

    method: str  # a key of METHODS, or "none"
    curve: Curve
    boxes: int
    ece_before: float = np.nan
    ece_after: float = np.nan
    log_loss: dict = field(default_factory=dict)  # method -> mean
    before: tuple = ()  # bins(): of the network's confidence
    after: tuple = ()  # of the chances


def calibrate(confidence, correct, image, seed: int = 0) -> Calibration:
    """Return the best calibration for boxes: confidence [n], correct bool [n], image [n], the number of its image."""
    chosen = np.asarray(confidence) >= FROM
    confidence, correct, image = (np.asarray(values)[chosen] for values in (confidence, correct, image))
    if len(confidence) < LEAST_BOXES or correct.all() or not correct.any() or len(np.unique(image)) < FOLDS:
        return Calibration("none", AS_IT_IS, len(confidence))
    unseen = {"none": confidence} | {
        name: _unseen(fit, confidence, correct, image, seed) for name, fit in METHODS.items()
    }
    losses = {name: log_loss(chance, correct) for name, chance in unseen.items()}
    method = min(losses, key=losses.get)
    curve = METHODS[method](confidence, correct) if method != "none" else AS_IT_IS
    before, after = bins(confidence, correct), bins(unseen[method], correct)
    errors = expected_calibration_error(*before), expected_calibration_error(*after)
    return Calibration(method, curve, len(confidence), *errors, losses, before, after)


def _unseen(fit, confidence, correct, image, seed: int) -> np.ndarray:
    """Return the chance [n] that each box has by a curve that was fitted to the images of the other folds."""
    images, number = np.unique(image, return_inverse=True)
    fold = (np.random.default_rng(seed).permutation(len(images)) % FOLDS)[number]
    chance = np.empty(len(confidence))
    for i in range(FOLDS):
        held_out = fold == i
        chance[held_out] = fit(confidence[~held_out], correct[~held_out])(confidence[held_out])
    return chance


def log_loss(chance, correct) -> float:
    """Return the mean of -log of the chance that was given to what happened."""
    chance = np.clip(chance, LEAST_CHANCE, 1 - LEAST_CHANCE)
    return float(-np.log(np.where(correct, chance, 1 - chance)).mean())


def bins(chance, correct) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return number, mean chance and share of right boxes in BINS bins of equal width; nan where a bin is empty."""
    bin_of = np.minimum((np.asarray(chance) * BINS).astype(int), BINS - 1)
    count = np.bincount(bin_of, minlength=BINS)
    sums = (np.bincount(bin_of, values, minlength=BINS) for values in (chance, correct))
    return count, *(np.divide(total, count, out=np.full(BINS, np.nan), where=count > 0) for total in sums)


def expected_calibration_error(count, chance, share) -> float:
    """Return the mean distance of chance and share of right boxes over the boxes of bins()."""
    return float(np.nansum(count * np.abs(chance - share)) / max(count.sum(), 1))


def fit_temperature(confidence, correct) -> Curve:
    """Return 1 / (1 + exp(-(a logit + b))) of least log loss, by Newton's method; a is never negative."""
    x = np.stack([_logit(confidence), np.ones(len(confidence))], 1)
    y = np.asarray(correct, float)
    parameters = np.array([0.0, _logit(y.mean())])
    for _ in range(STEPS):
        chance = _sigmoid(x @ parameters)
        slope = x.T @ (chance - y) + RIDGE * parameters
        curvature = (x * (chance * (1 - chance))[:, None]).T @ x + RIDGE * np.eye(2)
        step = np.linalg.solve(curvature, slope)
        while np.abs(step).max() > 1e-9 and _loss(x, y, parameters - step) > _loss(x, y, parameters):
            step = step / 2
        parameters = parameters - step
        if np.abs(step).max() <= 1e-9:
            break
    scores = np.concatenate([[0.0], _sigmoid(LOGITS), [1.0]])
    return Curve(scores, _sigmoid(max(parameters[0], 0.0) * _logit(scores) + parameters[1]))


def _loss(x, y, parameters) -> float:
    """Return what fit_temperature() makes least."""
    logit = x @ parameters
    return float((np.logaddexp(0, logit) - y * logit).sum() + RIDGE * (parameters**2).sum() / 2)


def _sigmoid(logit) -> np.ndarray:
    return np.exp(-np.logaddexp(0, -logit))


def _logit(confidence) -> np.ndarray:
    confidence = np.clip(confidence, LEAST_CHANCE, 1 - LEAST_CHANCE)
    return np.log(confidence / (1 - confidence))


def fit_isotonic(confidence, correct) -> Curve:
    """Return the rising function of least squares as a curve through the middles of its steps.

    Half a right and half a wrong box are added to each step: few boxes say neither never nor always.
    """
    order = np.argsort(confidence, kind="stable")
    steps = _pooled(np.asarray(correct, float)[order])
    middle = np.array([np.asarray(confidence)[order][part].mean() for part in steps])
    share = np.array([(np.asarray(correct)[order][part].sum() + 0.5) / (part.stop - part.start + 1) for part in steps])
    scores, first = np.unique(np.append(0, middle), return_index=True)
    chances = np.maximum.accumulate(np.append(0, share))[first]
    thinned = np.unique(np.linspace(0, len(scores) - 1, min(len(scores), MOST_POINTS)).round().astype(int))
    return Curve(scores[thinned], chances[thinned])


def _pooled(values: np.ndarray) -> list[slice]:
    """Return the slices of `values` [n] within which the rising function of least squares is level."""
    blocks = []  # sum, count
    for value in values.tolist():
        total, count = value, 1
        while blocks and blocks[-1][0] * count >= total * blocks[-1][1]:  # the mean before is no less
            before = blocks.pop()
            total, count = total + before[0], count + before[1]
        blocks.append((total, count))
    ends = np.cumsum([count for _, count in blocks]).tolist()
    return [slice(start, end) for start, end in zip([0, *ends], ends)]


METHODS = {"temperature": fit_temperature, "isotonic": fit_isotonic}
