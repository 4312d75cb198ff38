"""One image through a network before any training starts."""

import torch
from torch import Tensor

from fer_bench.errors import UserError
from fer_bench.models.network import CLASSES, Network
from fer_bench.models.weights import in_words


def probe(network: Network, backbone: str) -> None:
    """Run one image through the network as in scoring, and two as in training, before any training starts.

    The network is spent by this: its running statistics have moved.

    Raises:
        UserError: when the network fails at this side, or does not give seven numbers.
    """
    was_training = network.module.training
    try:
        with torch.no_grad():
            blank = torch.zeros(2, network.channels, network.side, network.side)
            shape = tuple(network.module.eval()(blank[:1]).shape)
            trained = network.module.train()(blank)
            if not isinstance(trained, Tensor):
                raise TypeError(f"training gives {type(trained).__name__}, not one tensor of logits")
    except Exception as error:  # any failure inside a network means the same: it cannot take this side
        raise UserError(
            f"{backbone}: fails on a {network.side} px image ({in_words(error)}); try a larger image_size"
            " or other options"
        ) from error
    finally:
        network.module.train(was_training)
    if shape != (1, CLASSES):
        raise UserError(f"{backbone}: gives an output of shape {shape} for one image, expected (1, {CLASSES})")
