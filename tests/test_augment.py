import numpy as np
import pytest
import torch
from scipy import ndimage
from torch.nn.functional import interpolate
from torchvision import transforms as tv

from fer_bench import augment
from fer_bench.config import Augment
from fer_bench.views import View, view_set


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def faces(n=8, seed=1):
    return torch.rand(n, 1, 48, 48, generator=gen(seed))


def ramp():
    """A smooth image: interpolation errors stay small."""
    y, x = np.mgrid[0:48, 0:48]
    return torch.tensor(np.exp(-((x - 20) ** 2 + (y - 28) ** 2) / 80), dtype=torch.float32).view(1, 1, 48, 48)


def test_nothing_asked_changes_nothing():
    x = faces()
    assert torch.equal(augment.augment(x, Augment(flip=0), gen()), x)


def test_flip_mirrors_about_half_of_the_images_and_only_that():
    x = faces(400)
    y = augment.augment(x, Augment(flip=0.5), gen())
    kept = (y == x).flatten(1).all(1)
    mirrored = (y == x.flip(-1)).flatten(1).all(1)
    assert bool((kept ^ mirrored).all())
    assert 150 < int(mirrored.sum()) < 250


def test_flip_inside_a_warp_is_the_same_mirror():
    x = ramp()
    y = augment.warp(x, Augment(flip=1, shift=1e-9), gen())
    assert torch.allclose(y, x.flip(-1), atol=1e-5)


def test_rotation_agrees_with_scipy():
    x = ramp().expand(64, 1, 48, 48)
    y = augment.warp(x, Augment(flip=0, rotate=20), gen())
    generator = gen()
    torch.rand(64, generator=generator)  # the first draw decides the mirror
    angles = (torch.rand(64, generator=generator) * 40 - 20).numpy()
    for index in (0, 7, 33):
        expected = ndimage.rotate(x[index, 0].numpy(), angles[index], reshape=False, order=1, mode="nearest")
        assert np.abs(y[index, 0].numpy() - expected).max() < 0.02


def test_shift_moves_by_at_most_its_share():
    x = torch.zeros(200, 1, 48, 48)
    x[:, :, 23:25, 23:25] = 1
    y = augment.warp(x, Augment(flip=0, shift=0.1), gen())
    centres = np.array([ndimage.center_of_mass(image) for image in y[:, 0].numpy()]) - 23.5
    assert np.abs(centres).max() <= 0.1 * 48 + 0.01
    assert np.abs(centres).max() > 0.08 * 48
    assert abs(centres.mean()) < 0.5


def test_scale_changes_the_area():
    x = torch.zeros(300, 1, 48, 48)
    x[:, :, 16:32, 16:32] = 1
    y = augment.warp(x, Augment(flip=0, scale=0.2), gen())
    sides = y.sum((1, 2, 3)).sqrt() / 16
    assert 0.79 < float(sides.min()) < 0.83
    assert 1.17 < float(sides.max()) < 1.21


def test_each_image_has_its_own_draw():
    x = faces(1).expand(16, 1, 48, 48)
    how = Augment(flip=0, shift=0.1, rotate=10, scale=0.1, brightness=0.2, contrast=0.2, erase=1)
    y = augment.augment(x, how, gen())
    assert len({image.numpy().tobytes() for image in y}) == 16
    assert float(y.min()) >= 0
    assert float(y.max()) <= 1


def test_brightness_shifts_the_mean_and_contrast_the_spread():
    x = 0.5 + 0.1 * (faces(300) - 0.5)
    bright = augment.shade(x, 0.2, 0, gen())
    moved = (bright - x).mean((1, 2, 3))
    assert float((bright - x - moved.view(-1, 1, 1, 1)).abs().max()) < 1e-5
    assert 0.18 < float(moved.max()) <= 0.2
    ratio = augment.shade(x, 0, 0.3, gen()).std((1, 2, 3)) / x.std((1, 2, 3))
    assert 0.7 <= float(ratio.min()) < 0.73
    assert 1.27 < float(ratio.max()) <= 1.3001


def test_erase_fills_one_rectangle_of_the_stated_size():
    x = faces(300)
    changed = augment.erase(x, 0.5, gen()) != x
    share = changed.float().mean((1, 2, 3))
    touched = share > 0
    assert 110 < int(touched.sum()) < 190
    assert float(share[touched].min()) > 0.01
    assert float(share.max()) < 0.3
    for mask in changed[touched][:20, 0]:
        rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
        box = (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1)
        assert int(mask.sum()) == int(box)


def test_mixup_and_cutmix_keep_targets_and_pixels_in_step():
    x = torch.eye(7).repeat(4, 1).view(28, 7, 1, 1).expand(28, 7, 48, 48).contiguous()
    target = torch.eye(7).repeat(4, 1)
    for seed in range(6):
        for alphas in ((1.0, 0.0), (0.0, 1.0), (1.0, 1.0)):
            mixed, shares = augment.mix(x, target, *alphas, gen(seed))
            assert torch.allclose(mixed.mean((2, 3)), shares, atol=1e-5)
            assert torch.allclose(shares.sum(1), torch.ones(28), atol=1e-6)


def test_beta_has_the_right_mean_and_variance():
    generator, alpha = gen(), 0.4
    draws = np.array([augment._beta(alpha, generator) for _ in range(4000)])
    assert abs(draws.mean() - 0.5) < 0.02
    assert draws.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.06)


def test_same_generator_same_images():
    how = Augment(shift=0.1, rotate=10, erase=0.5)
    assert torch.equal(augment.augment(faces(), how, gen(5)), augment.augment(faces(), how, gen(5)))
    assert not torch.equal(augment.augment(faces(), how, gen(5)), augment.augment(faces(), how, gen(6)))


def copies(x, name):
    """The views of a set as images, each with its weight."""
    return [
        (weight, (copy.flip(-1) if view.mirror else copy))
        for view, weight in view_set(name).items()
        for copy in [augment.copy_of(x, view)]
    ]


@pytest.mark.parametrize(
    ("name", "theirs"), [("five-crop", tv.functional.five_crop), ("ten-crop", tv.functional.ten_crop)]
)
def test_crops_are_those_of_torchvision(name, theirs):
    x = faces(2)
    expected = theirs(x, [44, 44])
    found = [copy for _, copy in copies(x, name)]
    assert {copy.numpy().tobytes() for copy in found} == {crop.contiguous().numpy().tobytes() for crop in expected}
    mean = sum(weight * copy for weight, copy in copies(x, name))
    assert torch.allclose(mean, torch.stack(expected).mean(0), atol=1e-6)


def test_shifts_move_whole_pixels_over_a_repeated_edge():
    x = faces(1)
    moves = [(0, 0), (-2, 0), (2, 0), (0, -2), (0, 2)]
    expected = {ndimage.shift(x[0, 0].numpy(), move, order=0, mode="nearest").tobytes() for move in moves}
    assert {copy[0, 0].contiguous().numpy().tobytes() for _, copy in copies(x, "shift")} == expected


def test_multi_scale_is_the_image_its_centre_and_a_wider_frame():
    x = faces(1)
    face = x[0, 0].numpy()
    by_side = {copy.shape[-1]: copy[0, 0].numpy() for _, copy in copies(x, "multi-scale")}
    assert np.array_equal(by_side[48], face)
    assert np.array_equal(by_side[44], face[2:46, 2:46])
    assert np.array_equal(by_side[52], np.pad(face, 2, mode="edge"))


def test_turned_views_agree_with_scipy():
    x = torch.cat([ramp(), ramp().flip(-1)])
    for view in view_set("rotate"):
        turned = augment.copy_of(x, view)
        for image, copy in zip(x[:, 0].numpy(), turned[:, 0].numpy(), strict=True):
            expected = ndimage.rotate(image, view.angle, reshape=False, order=1, mode="nearest")
            assert np.abs(copy - expected).max() < 1e-3


def test_a_crop_of_a_shifted_image_is_one_box():
    x = faces(1)
    face = np.pad(x[0, 0].numpy(), 8, mode="edge")
    copy = augment.copy_of(x, View(trim=4, down=4, right=-3))
    assert np.array_equal(copy[0, 0].numpy(), face[8 + 6 : 8 + 50, 8 - 1 : 8 + 43])


def test_the_plain_view_is_the_image_itself():
    x = faces(2)
    assert augment.copy_of(x, View()).data_ptr() == x.data_ptr()


def enlarged(x, side):
    """Bicubic at half-pixel centres, by torch's resizing, which shares no code with a warp."""
    return interpolate(x, size=(side, side), mode="bicubic", align_corners=False).clamp(0, 1)


@pytest.mark.parametrize("side", [48, 64, 96, 112])
def test_a_face_sampled_once_that_is_not_moved_is_the_resized_one(side):
    x = faces(3)
    still = Augment(flip=0, rotate=1e-9)  # drawn as any turn, and too little to be seen
    assert torch.allclose(augment.augment(x, still, gen(), side), enlarged(x, side), atol=1e-5)
    mirrored = Augment(flip=1, rotate=1e-9)
    assert torch.allclose(augment.augment(x, mirrored, gen(), side), enlarged(x.flip(-1), side), atol=1e-5)


def test_a_face_sampled_once_is_turned_and_resized_as_in_scipy():
    x = torch.cat([ramp(), ramp().flip(-1)])
    for angle in (-5.0, 5.0):
        turned = augment.copy_of(x, View(angle=angle), side=96)
        for image, copy in zip(x[:, 0].numpy(), turned[:, 0].numpy(), strict=True):
            whole = ndimage.rotate(image, angle, reshape=False, order=3, mode="nearest")
            places = np.indices((96, 96)) / 2 - 0.25
            expected = ndimage.map_coordinates(whole, places, order=3, mode="nearest")
            assert np.abs(copy - expected).max() < 0.01


@pytest.mark.parametrize(("trim", "down", "right"), [(4, 0, 0), (-4, 0, 0), (4, 2, -2), (0, 0, 2)])
def test_a_cut_of_a_turned_face_sampled_once_is_the_cut_of_the_whole(trim, down, right):
    """The whole face at four times its side has the pixels of the cut, at four times its own, in its midst."""
    x = faces(2)
    whole = augment.copy_of(x, View(angle=5), side=4 * 48)
    cut = augment.copy_of(x, View(angle=5, trim=trim, down=down, right=right), side=4 * (48 - trim))
    top, left = 4 * (trim // 2 + down), 4 * (trim // 2 + right)
    rows, columns = (slice(max(0, at), min(4 * 48, at + 4 * (48 - trim))) for at in (top, left))
    inside = cut[..., rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    assert torch.allclose(inside, whole[..., rows, columns], atol=1e-4)


def test_faces_sampled_once_stay_sharper():
    """Bilinear at 48 px and again to 96 loses more of what differs between neighbours."""
    x = torch.from_numpy(ndimage.gaussian_filter(faces(64).numpy(), (0, 0, 0.7, 0.7)))
    how = Augment(shift=0.06, rotate=10)
    twice = interpolate(augment.augment(x, how, gen()), size=(96, 96), mode="bilinear", align_corners=False)
    once = augment.augment(x, how, gen(), 96)
    assert once.shape == twice.shape == (64, 1, 96, 96)
    detail = [float((y[..., 1:] - y[..., :-1]).square().mean()) for y in (once, twice, enlarged(x, 96))]
    assert detail[1] < 0.8 * detail[0]
    assert detail[0] > 0.75 * detail[2]


def test_once_and_twice_draw_the_same_changes():
    x, how = ramp().repeat(8, 1, 1, 1), Augment(shift=0.06, rotate=10, scale=0.08, brightness=0.1, contrast=0.15)
    twice = enlarged(augment.augment(x, how, gen(3)), 96)
    assert (augment.augment(x, how, gen(3), 96) - twice).abs().max() < 0.02
