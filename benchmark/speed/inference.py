"""Test-time views beside as many plain passes."""

from fer_bench.augment import PASSES
from fer_bench.models import place
from fer_bench.predict import probabilities
from measure import Row, Setting, calls_of, in_turns, repeated
from training import faces, made, member


def views(setting: Setting) -> list[Row]:
    """Measure each view set of V views against V passes of the plain image."""
    side = 48 if setting.is_quick else 96
    return [row for backbone in setting.backbones for row in _views(backbone, side, setting)]


def _views(backbone: str, side: int, setting: Setting) -> list[Row]:
    network, precision = made(member(backbone, side, setting), setting)
    place(network.module, setting.device)
    images = faces(16 if setting.is_quick else 512)[0]

    def passes(view: str) -> None:
        probabilities(network, images, view, device=setting.device, precision=precision)

    times = calls_of(lambda: passes("none"), setting)
    names = [name for name, count in PASSES.items() if count > 1]
    cases = {name: repeated(lambda name=name: passes(name), times) for name in names}  # type: ignore[misc]
    plain = {f"{PASSES[name]} plain": repeated(lambda: passes("none"), times * PASSES[name]) for name in names}
    found = in_turns(plain | cases, setting)
    facts = {"images": len(images) * times, "precision": precision}
    return [
        Row(
            f"{backbone}, {side} px: {name}, {PASSES[name]} views",
            found,
            name,
            f"{PASSES[name]} plain",
            "<= 1.05",
            facts,
        )
        for name in names
    ]
