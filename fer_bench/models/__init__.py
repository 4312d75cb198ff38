"""Name -> network, input side, mean and standard deviation, parameter groups; where weights come from, their SHA-256.

``timm_name`` is any classification backbone of timm, ``torchvision:NAME`` one of torchvision, ``baseline:mlp`` and
``baseline:cnn`` the first networks of the field, ``scratch:NAME`` those that are made for faces of 48 px,
``dlib:face_recognition_resnet`` one that has learned to tell people apart. Pretrained weights come from a path in the
suite, else from an installed weight package, else from the hub.
"""

from fer_bench.models.baselines import BaselineCNN, BaselineMLP
from fer_bench.models.building import build
from fer_bench.models.network import CLASSES, MIN_LR_SCALE, Network, parameter_groups, place, to_gray, to_input
from fer_bench.models.probing import check, probe
from fer_bench.models.weights import NOT_LOCAL, WEIGHT_PACKAGES, NotLocalError, UnreachableError, Weights, find_weights

__all__ = [
    "CLASSES",
    "MIN_LR_SCALE",
    "NOT_LOCAL",
    "WEIGHT_PACKAGES",
    "BaselineCNN",
    "BaselineMLP",
    "Network",
    "NotLocalError",
    "UnreachableError",
    "Weights",
    "build",
    "check",
    "find_weights",
    "parameter_groups",
    "place",
    "probe",
    "to_gray",
    "to_input",
]
