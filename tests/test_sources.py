import csv
import io
import json

import numpy as np
import pytest
from PIL import Image
from test_cli import SUITE, call, one_line  # noqa: F401  (a fixture)

from fer_bench import toyfaces
from fer_bench.errors import UserError
from fer_bench.suite import sources

pytestmark = pytest.mark.usefixtures("drawn_once")

BOARD = ("--board", "runs/tiny-limit40")


def refuse(faces):
    raise AssertionError("PrivateTest was opened")


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "face.png"
    Image.fromarray(np.arange(48 * 48, dtype=np.uint8).reshape(48, 48)).save(path)
    return path


def written(folder, name, content):
    (folder / name).write_bytes(content)
    return folder / name


# ---- what is no source


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("notes.txt", b"remember the milk\n", "is no image (.png, .jpg"),
        ("notes.txt", b"\xff\xfe\x00binary", "is no image (.png, .jpg"),
        ("names.csv", b"name,age\nx,3\n", "names.csv: line 1 names no column 'pixels'"),
        ("empty.csv", b"", "empty.csv: the file is empty"),
        ("faces.csv", b"pixels\n1 2 3\n", "1 bad row of 1: line 2: 3 pixels, expected 2304; mend the file"),
        ("face.png", b"", "face.png: is no readable image"),
        ("face.jpg", b"\xff\xd8\xff but no more", "face.jpg: is no readable image"),
        ("faces.zip", b"PK\x03\x04", "is a zip archive, not a CSV file"),
    ],
)
def test_what_cannot_be_predicted_is_said_in_fitting_words(tmp_path, name, content, problem):
    with pytest.raises(UserError) as caught:
        sources.read(written(tmp_path, name, content), (), refuse)
    said = str(caught.value)
    assert problem in said
    assert said.startswith(str(tmp_path / name))
    assert "\n" not in said
    assert "--skip-bad-rows" not in said
    assert "emotion" not in said


def test_image_that_was_cut_off_is_refused(tmp_path, picture):
    whole = picture.read_bytes()
    with pytest.raises(UserError, match="is no readable image"):
        sources.read(written(tmp_path, "cut.png", whole[: len(whole) // 2]), (), refuse)


def test_folder_without_images_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "folder.png").mkdir()
    with pytest.raises(UserError, match=r"empty: holds no image \(.png, .jpg.* and no form of FER2013"):
        sources.read(tmp_path / "empty", (), refuse)


def test_images_have_no_part(picture):
    assert sources.read(picture, (), refuse).rows == ("face.png",)
    with pytest.raises(UserError, match=r"--part PrivateTest: .*holds images, which have no part"):
        sources.read(picture, ["PrivateTest"], refuse)


# ---- FER2013 and its test part


@pytest.fixture(scope="module")
def faces():
    return toyfaces.load(seed=3, counts=(6, 4, 5))


@pytest.fixture
def official(tmp_path, faces):
    toyfaces.write(faces, tmp_path / "data", "fer2013")
    return tmp_path / "data"


def test_labelled_test_rows_are_left_out_and_told(official, faces):
    found = sources.read(official, (), refuse)
    assert found.rows[0] == "Training 0"
    assert found.rows[-1] == "PublicTest 9"
    np.testing.assert_array_equal(found.images, faces.images[:10])
    assert found.notes == (
        "5 PrivateTest rows are left out, the test part: --part PrivateTest predicts them and notes the look",
    )


def test_test_rows_that_are_asked_for_come_through_the_door(official, faces):
    opened = []

    def door(given):
        opened.append(given)
        return given.images[10:]

    found = sources.read(official, ["PrivateTest", "PublicTest"], door)
    assert len(opened) == 1
    assert found.rows == tuple(
        [f"PublicTest {row}" for row in range(6, 10)] + [f"PrivateTest {row}" for row in range(10, 15)]
    )
    np.testing.assert_array_equal(found.images, faces.images[6:])
    assert found.notes == ("5 PrivateTest rows are opened: the look is noted",)


def test_other_parts_alone_say_nothing_of_the_test_part(official):
    found = sources.read(official, ["Training"], refuse)
    assert len(found.rows) == 6
    assert found.notes == ()


def test_unlabelled_test_rows_are_predicted_like_images(tmp_path, faces):
    toyfaces.write(faces, tmp_path / "kaggle", "kaggle")
    found = sources.read(tmp_path / "kaggle" / "test.csv", (), refuse)
    assert len(found.rows) == 9
    assert found.notes == ()


def test_test_rows_alone_need_to_be_asked_for(tmp_path, faces):
    lines = ["emotion,pixels,Usage"]
    lines += [f"{faces.labels[10]},{' '.join(map(str, faces.images[10].ravel()))},PrivateTest"]
    path = written(tmp_path, "mine.csv", "\n".join(lines).encode())
    with pytest.raises(UserError, match=r"only 1 PrivateTest rows; --part PrivateTest predicts them"):
        sources.read(path, (), refuse)
    with pytest.raises(UserError, match="has no rows of Training"):
        sources.read(path, ["Training"], refuse)


# ---- the command


def test_looks_of_predict_are_noted_for_every_run_that_sees_the_part(call, tmp_path, official):  # noqa: F811
    suite = written(tmp_path, "tiny.yaml", SUITE.format(data="toyfaces").encode())
    call("run", suite, "--limit", "40", "--device", "cpu")
    before = {path.name: len(path.read_bytes().splitlines()) for path in (tmp_path / "runs" / "looks").iterdir()}
    assert set(before.values()) == {1}
    code, out, err = call("predict", official, "--model", "vote", *BOARD)
    assert code == 0
    assert [row["row"].split()[0] for row in csv.DictReader(io.StringIO(out))].count("PrivateTest") == 0
    assert "5 PrivateTest rows are left out" in err
    assert {
        path.name: len(path.read_bytes().splitlines()) for path in (tmp_path / "runs" / "looks").iterdir()
    } == before
    code, out, err = call("predict", official, "--model", "vote", *BOARD, "--part", "PrivateTest")
    assert code == 0
    assert len(out.splitlines()) == 6
    assert "the look is noted" in err
    for path in (tmp_path / "runs" / "looks").iterdir():
        first, second = map(json.loads, path.read_bytes().splitlines())
        assert (first["purpose"], second["purpose"]) == ("score of the finished run", "predict with vote")
        assert second["run_id"] == first["run_id"]
    code, _, err = call("predict", official, "--model", "vote", *BOARD, "--part", "Test")
    assert code == 2
    assert "use Training, PublicTest, PrivateTest" in one_line(err)
