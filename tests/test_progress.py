import io

import pytest
from rich.console import Console

from fer_bench.suite.progress import Display
from fer_bench.train import Progress

ENTRY = {"train_loss": 1.2, "validation_loss": 1.165, "validation_accuracy": 0.5678, "images_per_second": 150.0}


def told(title, *, width=100, terminal=True):
    """What a run says that has ended its third epoch, as the lines that a terminal redraws."""
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=terminal, color_system=None, soft_wrap=True)
    with Display(console=console).training(title) as report:
        report(Progress(3, 8, 100, 100, lambda: 1.23456, 150, 754, ENTRY))
    return out.getvalue().replace("\r", "\n").split("\n")


@pytest.mark.parametrize("terminal", [True, False])
def test_the_two_losses_of_an_epoch_are_named(terminal):
    line = "  epoch 3/8  train loss 1.2000  PublicTest loss 1.1650  accuracy 56.78%  150 images/s  0:12:34 left"
    assert line in [line.split("\x1b[2K")[-1] for line in told("mlp seed 0", terminal=terminal)]


def test_the_bar_shows_the_validation_loss_where_100_columns_have_room():
    short, long = ("\n".join(told(title)) for title in ("lite0-96 seed 0", "resnet18-scratch seed 0"))
    assert "loss 1.23 train 1.17 PublicTest  56.8%  150 images/s  0:12:34 left" in short
    assert "loss 1.23 train  PublicTest 56.8%  150 images/s  0:12:34 left" in long
