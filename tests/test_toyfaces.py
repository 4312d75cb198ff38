import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from fer_bench import data, toyfaces


@pytest.fixture(scope="module")
def default():
    return toyfaces.load()


def test_default_has_the_shape_parts_and_classes_of_the_benchmark(default):
    assert default.images.shape == (2100, 48, 48)
    assert default.images.dtype == np.uint8
    assert np.bincount(default.parts).tolist() == [1400, 350, 350]
    assert (default.name, default.source, default.canonical) == ("toyfaces", "toy faces", False)
    for part in range(3):
        shares = np.bincount(default.labels[default.parts == part], minlength=7) / (default.parts == part).sum()
        assert np.abs(shares - toyfaces.SHARES).max() < 0.06


def test_a_seed_gives_the_pinned_bytes():
    first, again, other = (toyfaces.load(seed, counts=(5, 2, 2)) for seed in (0, 0, 1))
    assert first.digest == again.digest != other.digest
    assert first.digest == "64c9fa5bd56ec0b8f1dad35f8657cb6c293f8984147f4c84b4c01be442c1be41"


def test_no_two_faces_are_alike_and_none_is_blank(default):
    assert len({image.tobytes() for image in default.images}) == 2100
    assert default.images.std(axis=(1, 2)).min() > 2


def test_a_linear_model_learns_something_but_not_the_expressions(default):
    halved = default.images.reshape(-1, 24, 2, 24, 2).mean(axis=(2, 4), dtype=np.float32)
    flat = StandardScaler().fit_transform(halved.reshape(len(halved), -1))
    train, test = default.parts == 0, default.parts == 1
    model = LogisticRegression(C=0.01, max_iter=100, tol=0.01).fit(flat[train], default.labels[train])
    accuracy = model.score(flat[test], default.labels[test])
    assert 0.25 < accuracy < 0.65


def test_expressions_differ_by_brows_eyes_and_mouth_alone():
    means = np.stack([average_face(label) for label in range(7)])
    for label in range(7):
        for other in range(label):
            rows = np.abs(means[label] - means[other]).max(axis=1)
            assert rows.max() > 8, (label, other)
            assert rows[:6].max() < 0.6 * rows.max(), "hair and background tell the class"


def average_face(label):
    """The mean over many faces in one pose (48, 48): what is left is the expression."""
    pose = toyfaces.Pose((96.0, 96.0), (70.0, 72.0), 1.0, 0.0, 0.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(toyfaces, "sample_pose", lambda rng: pose)
        patch.setattr(toyfaces, "cover", lambda pen, rng: None)
        rng = np.random.default_rng(1)
        return np.mean([toyfaces.draw(label, rng) for _ in range(60)], axis=0)


def test_arc_passes_through_its_three_points():
    points = toyfaces.arc((0, 0), (1, 2), (2, 0), steps=2)
    assert points == [(0, 0), (1, 2), (2, 0)]


def test_icml_files_have_the_official_leading_spaces(toy, tmp_path):
    toyfaces.write(toy, tmp_path, "icml")
    header, first, *_ = (tmp_path / "icml_face_data.csv").read_text().splitlines()
    assert header == "emotion, Usage, pixels"
    assert first.startswith(f"{toy.labels[0]}, Training, {toy.images[0, 0, 0]} {toy.images[0, 0, 1]} ")


def test_folders_hold_the_images_by_part_and_emotion(toy, tmp_path):
    toyfaces.write(toy, tmp_path, "folders")
    emotion = data.EMOTIONS[toy.labels[-1]].lower()
    with Image.open(tmp_path / "test" / emotion / f"PrivateTest_{len(toy.labels) - 1}.png") as image:
        np.testing.assert_array_equal(np.asarray(image), toy.images[-1])


def test_an_unknown_form_is_refused(toy, tmp_path):
    with pytest.raises(ValueError, match="got 'parquet'"):
        toyfaces.write(toy, tmp_path, "parquet")
