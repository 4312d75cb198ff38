"""Test-time views beside as many plain passes."""

from fer_bench.models import place
from fer_bench.predict import probabilities
from fer_bench.views import passes
from measure import Row, Setting, calls_of, in_turns, repeated
from training import faces, made, member

SETS = ("flip", "rotate", "ten-crop")
"""One that shares its resized copy, one that is turned, one of crops."""


def views(setting: Setting) -> list[Row]:
    """Measure view sets of V views against V passes of the plain image."""
    side = 48 if setting.is_quick else 96
    return [row for backbone in setting.backbones for row in _views(backbone, side, setting)]


def _views(backbone: str, side: int, setting: Setting) -> list[Row]:
    network, engine = made(member(backbone, side, setting), setting)
    place(network.module, setting.device)
    images = faces(16 if setting.is_quick else 256)[0]

    def predict(view: str) -> None:
        probabilities(network, images, view, device=setting.device, precision=engine.precision)

    times = max(1, calls_of(lambda: predict("none"), setting) // 4)  # a set of ten views takes ten times as long
    cases = {name: repeated(lambda name=name: predict(name), times) for name in SETS}  # type: ignore[misc]
    plain = {f"{passes(name)} plain": repeated(lambda: predict("none"), times * passes(name)) for name in SETS}
    found = in_turns(plain | cases, setting)
    facts = {"images": len(images) * times, "precision": engine.precision}
    return [
        Row(
            f"{backbone}, {side} px: {name}, {passes(name)} views",
            found,
            name,
            f"{passes(name)} plain",
            "<= 1.05",
            facts,
        )
        for name in SETS
    ]
