from fractions import Fraction
from itertools import permutations, product

import pytest

from fer_bench import views
from fer_bench.views import View

HALF, QUARTER, FIFTH, EIGHTH = (Fraction(1, n) for n in (2, 4, 5, 8))
PLAIN: dict[tuple, Fraction] = {(): HALF}
# what each set has stood for since it had its name: changed keys of View -> weight
DEFINITIONS: dict[str, dict[tuple, Fraction]] = {
    "none": {(): Fraction(1)},
    "flip": PLAIN | {(("mirror", True),): HALF},
    "five-crop": {
        (("trim", 4), ("down", down), ("right", right)): FIFTH
        for down, right in [(0, 0), (-2, -2), (-2, 2), (2, -2), (2, 2)]
    },
    "shift": PLAIN | {(("down", d), ("right", r)): EIGHTH for d, r in [(-2, 0), (2, 0), (0, -2), (0, 2)]},
    "rotate": PLAIN | {(("angle", angle),): QUARTER for angle in (-5, 5)},
    "multi-scale": PLAIN | {(("trim", trim),): QUARTER for trim in (4, -4)},
}


def defined(name):
    return {View(**dict(changes)): weight for changes, weight in DEFINITIONS[name].items()}


@pytest.mark.parametrize("name", DEFINITIONS)
def test_a_set_keeps_its_meaning(name):
    assert dict(views.view_set(name)) == {view: float(weight) for view, weight in defined(name).items()}


@pytest.mark.parametrize(
    ("name", "passes"),
    [
        *[
            ("none", 1),
            ("flip", 2),
            ("five-crop", 5),
            ("ten-crop", 10),
            ("shift", 5),
            ("rotate", 3),
            ("multi-scale", 3),
        ],
        *[("flip+rotate", 6), ("ten-crop+rotate", 30), ("flip+shift+multi-scale", 30)],
    ],
)
def test_passes_are_counted(name, passes):
    assert views.passes(name) == passes


def test_every_set_has_unit_weight_and_a_name_of_its_own():
    assert len(views.NAMES) == 2**5  # with or without each of flip, five-crop, shift, rotate and multi-scale
    assert all(sum(views.view_set(name).values()) == pytest.approx(1, abs=1e-12) for name in views.NAMES)
    assert len({tuple(views.view_set(name).items()) for name in views.NAMES}) == 2**5


def test_a_product_takes_each_view_with_each_and_merges_equal_ones():
    expected: dict[tuple[int, int], Fraction] = {}
    for (a, share), (b, weight) in product(defined("five-crop").items(), defined("shift").items()):
        place = a.down + b.down, a.right + b.right
        expected[place] = expected.get(place, Fraction(0)) + share * weight
    found = {(view.down, view.right): weight for view, weight in views.view_set("five-crop+shift").items()}
    assert found == pytest.approx({place: float(weight) for place, weight in expected.items()})
    assert len(found) < 25


def test_ten_crop_is_every_crop_and_its_mirror():
    crops = views.view_set("five-crop")
    ten = views.view_set("ten-crop")
    assert {view.upright for view in ten} == set(crops)
    assert sum(view.mirror for view in ten) == 5
    assert set(ten.values()) == {0.1}


@pytest.mark.parametrize("parts", list(permutations(["flip", "shift", "rotate"])))
def test_another_order_is_told_the_one_name(parts):
    name = "+".join(parts)
    if name == "flip+shift+rotate":
        assert views.known(name) == name
    else:
        with pytest.raises(ValueError, match=r"write 'flip\+shift\+rotate'"):
            views.known(name)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("flips", "did you mean 'flip'"),
        ("10-crop", "did you mean 'ten-crop'"),
        ("flip+rotat", "did you mean 'rotate'"),
        ("flip*rotate", "write 'flip+rotate'"),
        ("flip-x-rotate", "write 'flip+rotate'"),
        ("Flip", "write 'flip'"),
        ("flip+five-crop", "write 'ten-crop'"),
        ("none+flip", "write 'flip'"),
        ("flip+flip", "has flip twice"),
        ("ten-crop+flip", "ten-crop is flip+five-crop"),
        ("spin", "products such as flip+rotate"),
        ("", "known: none, flip"),
    ],
)
def test_a_wrong_name_is_told_how_to_write_it(name, hint):
    with pytest.raises(ValueError, match="unknown view set") as caught:
        views.known(name)
    assert hint in str(caught.value)


@pytest.mark.parametrize("name", sorted({part for name in views.NAMES for part in name.split("+")}))
def test_a_set_is_described(name):
    assert name in ("none", "flip") or any(character.isdigit() for character in views.describe(name))
