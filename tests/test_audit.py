import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from fer_bench import audit, cli, toyfaces, twins
from fer_bench.audit import ferplus
from fer_bench.data import PARTS, Faces
from fer_bench.data.faces import assemble
from fer_bench.errors import UserError

HEAD = ["Usage", "Image name", "neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear"]
HEAD += ["contempt", "unknown", "NF"]


@pytest.fixture(scope="module")
def planned() -> Faces:
    """20 Training, 6 PublicTest and 8 PrivateTest images; the comments say what is planned, all else is noise.

    PrivateTest rows: 0 and 1 copy Training 0 and 1, the second under another label; 2 is Training 2 with other
    contrast and brightness (correlation 1 up to rounding); 3 mirrors Training 3; 4 is constant, as is Training 4 with
    another value; 5 copies PublicTest 0; 6 is constant with the value of Training 4; 7 has no twin.
    """
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (34, 48, 48), dtype=np.uint8)
    labels = np.arange(34) % 7
    training, public, private = images[:20], images[20:26], images[26:]
    training[19] = training[18]  # a conflict within Training: labels 4 and 5
    training[4] = 7
    private[0], private[1], private[3] = training[0], training[1], training[3][:, ::-1]
    private[2] = np.round(training[2] / 2 + 20)
    private[4], private[5], private[6] = 8, public[0], 7
    labels[[26, 30, 32]] = labels[[0, 4, 4]]
    labels[27] = (labels[1] + 1) % 7
    labels[31] = labels[20]
    return assemble(images, labels, np.repeat([0, 1, 2], [20, 6, 8]), source="planned")


@pytest.fixture(scope="module")
def findings(planned, tmp_path_factory):
    """The findings, with votes: PrivateTest 0 agrees, 1 is a tie with its label, 2 contempt, 3 another emotion."""
    path = write_votes(tmp_path_factory.mktemp("votes") / ferplus.FILE, votes_of(planned))
    return audit.examine(planned, path)


def votes_of(faces):
    """Rows of a votes file in which every label has 6 of 10 votes, but for the rows that the fixture plans."""
    names = ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral")  # in the order of EMOTIONS
    rows = []
    for part, label in zip(faces.parts, faces.labels, strict=True):
        row = {"Usage": PARTS[part], "Image name": "", **dict.fromkeys(HEAD[2:], 0), "unknown": 4}
        rows.append(row | {names[label]: 6})
    private = rows[26:]
    private[1]["unknown"] = 6
    private[2]["contempt"] = 7
    private[3]["sadness"] = 8
    return rows


def write_votes(path, rows, head=tuple(HEAD)):
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, head, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return path


def private(findings, mask):
    return np.flatnonzero(mask[findings.within("PrivateTest")]).tolist()


# ---- twins


def brute_force(images, threshold):
    """Every pair by numpy's own correlation matrix in float64, as the images are and with the second one mirrored."""
    rows = [row for row, image in enumerate(images) if image.std()]
    flat = images[rows].reshape(len(rows), -1), images[rows][:, :, ::-1].reshape(len(rows), -1)
    all_of_them = np.corrcoef(np.concatenate(flat))
    plain, mirror = all_of_them[: len(rows), : len(rows)], all_of_them[: len(rows), len(rows) :]
    found = {}
    for i, j in zip(*np.triu_indices(len(rows), k=1), strict=True):
        if max(plain[i, j], mirror[i, j]) >= threshold:
            found[rows[i], rows[j]] = max(plain[i, j], mirror[i, j]), mirror[i, j] > plain[i, j]
    return found


@pytest.mark.parametrize(("block", "threshold"), [(2048, 0.98), (16, 0.5), (7, 0.3)])
def test_near_twins_are_those_of_brute_force(planned, block, threshold):
    images = planned.images.copy()
    images[10:18] = toyfaces.load(seed=1, counts=(8, 7, 7)).images[:8]  # smooth images, alike to all degrees
    pairs, expected = twins.near(images, threshold, block=block), brute_force(images, threshold)
    assert list(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)) == sorted(expected)
    np.testing.assert_allclose(pairs.correlation, [expected[pair][0] for pair in sorted(expected)], atol=1e-9)
    assert pairs.mirrored.tolist() == [expected[pair][1] for pair in sorted(expected)]
    assert len(expected) >= 5


def test_near_twins_of_real_faces_are_those_of_brute_force(real_dir):
    if not (real_dir / "images.png").is_file():
        pytest.skip("needs the faces as one PNG")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image, "MAX_IMAGE_PIXELS", None)
        rows = np.sort(np.random.default_rng(0).choice(35_887, 300, replace=False))
        images = np.asarray(Image.open(real_dir / "images.png")).reshape(-1, 48, 48)[rows]
    pairs, expected = twins.near(images, 0.7, block=128), brute_force(images, 0.7)
    assert list(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)) == sorted(expected)
    assert expected


def test_two_images_without_likeness_have_no_pair(planned):
    assert len(twins.near(planned.images[5:7]).first) == 0


def test_progress_ends_with_all(planned):
    told: list[float] = []
    twins.near(planned.images, block=10, progress=told.append)
    assert told == pytest.approx(np.arange(1, 11) / 10)  # 4 blocks: 10 pairs of them


# ---- findings


def test_twins_are_the_planned_ones(findings):
    assert private(findings, findings.exact_twin_in("Training")) == [0, 1, 6]
    assert private(findings, findings.twin_in("Training")) == [0, 1, 2, 3, 6]
    assert private(findings, findings.twin_in("PublicTest")) == [5]
    assert np.flatnonzero(findings.twin_in("PrivateTest")).tolist() == [0, 1, 2, 3, 4, 20]
    assert np.flatnonzero(findings.exact_twin_in("Training") & findings.within("Training")).tolist() == [18, 19]


def test_conflicts_are_exact_twins_with_other_labels(findings):
    assert private(findings, findings.conflict_in("Training")) == [1]
    assert np.flatnonzero(findings.conflict).tolist() == [1, 18, 19, 27]


def test_rows_without_labels_contradict_nothing(planned):
    labels = np.where(planned.parts == 2, -1, planned.labels)
    found = audit.examine(replace(planned, labels=labels))
    assert np.flatnonzero(found.conflict).tolist() == [18, 19]


def test_constant_images(findings):
    assert np.flatnonzero(findings.constant).tolist() == [4, 30, 32]


# ---- FER+


def test_ties_contempt_and_other_emotions_do_not_agree(findings):
    assert private(findings, ~findings.agrees) == [1, 2, 3]
    assert findings.agrees[:26].all()


def test_votes_in_another_order_of_parts_are_sorted(planned, tmp_path):
    rows = votes_of(planned)
    path = write_votes(tmp_path / "votes.csv", rows[26:] + rows[:26])
    assert ferplus.majority(path, planned.parts)[26:].tolist()[:4] == [planned.labels[26], -1, -1, 4]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[:-1], r"are \[20, 6, 7\], those of the data \[20, 6, 8\]"),
        (lambda rows: [rows[0] | {"fear": "many"}, *rows[1:]], "line 2: expected a part and 10 whole numbers"),
        (lambda rows: [*rows[:5], rows[5] | {"Usage": "Test"}], "line 7: expected a part"),
    ],
)
def test_mistakes_in_votes_are_named(planned, tmp_path, change, message):
    path = write_votes(tmp_path / "votes.csv", change(votes_of(planned)))
    with pytest.raises(UserError, match=message):
        ferplus.majority(path, planned.parts)


def test_another_table_is_not_taken_for_votes(planned, tmp_path):
    path = write_votes(tmp_path / "votes.csv", votes_of(planned), head=[name for name in HEAD if name != "NF"])
    with pytest.raises(UserError, match="no column NF"):
        ferplus.majority(path, planned.parts)
    with pytest.raises(UserError, match="cannot be read"):
        ferplus.majority(tmp_path / "none.csv", planned.parts)


def test_votes_are_found_beside_the_data(tmp_path):
    (tmp_path / "fer2013").mkdir()
    assert ferplus.beside(tmp_path) is None
    path = write_votes(tmp_path / "fer2013" / ferplus.FILE, [])
    assert ferplus.beside(tmp_path) == path
    data = tmp_path / "fer2013" / "fer2013.csv"
    data.touch()
    assert ferplus.beside(data) == path


# ---- what is kept


def test_lists_come_back_as_masks(findings, tmp_path):
    audit.save(tmp_path / audit.FILE, findings)
    found = audit.load(tmp_path)
    assert found is not None
    assert found.without_twins.tolist() == [row not in (0, 1, 2, 3, 6) for row in range(8)]
    assert found.ferplus_agrees is not None
    assert np.flatnonzero(~found.ferplus_agrees).tolist() == [1, 2, 3]
    assert found.private_test.other_label_in_training == (1,)
    assert found.private_test.constant == (4, 6)
    assert found.counts.twins["PrivateTest"] == {"Training": 5, "PublicTest": 1, "PrivateTest": 0}
    assert found.counts.exact["Training"] == {"Training": 2, "PublicTest": 0, "PrivateTest": 3}
    assert (found.counts.conflicting_groups, found.counts.mirrored_pairs) == (2, 1)
    assert found.data.digest == findings.faces.digest
    assert found.public_test is not None
    assert found.public_test.ferplus_agrees == (0, 1, 2, 3, 4, 5)
    assert found.public_test.twin_in_training == ()
    assert found.rows_of("Training") is None


def test_file_without_lists_of_public_test_is_read(findings, tmp_path):
    path = tmp_path / audit.FILE
    audit.save(path, findings)
    content = json.loads(path.read_text())
    del content["public_test"]
    path.write_text(json.dumps(content))
    found = audit.load(tmp_path)
    assert found is not None
    assert found.twins_of("PublicTest") is None
    assert found.agreeing_of("PublicTest") is None


def test_altered_lists_of_public_test_are_refused(findings, tmp_path):
    path = tmp_path / audit.FILE
    audit.save(path, findings)
    content = json.loads(path.read_text())
    content["public_test"]["ferplus_agrees"].pop()
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="counts: are not those of the lists in public_test"):
        audit.load(tmp_path)


def test_file_is_one_line_and_the_same_each_time(findings, tmp_path):
    written = []
    for name in "ab":
        audit.save(tmp_path / name, findings)
        written.append((tmp_path / name).read_bytes())
    assert written[0] == written[1]
    assert written[0].count(b"\n") == 1


def test_no_votes_no_list(planned, tmp_path):
    audit.save(tmp_path / audit.FILE, audit.examine(planned))
    found = audit.load(tmp_path)
    assert found is not None
    assert found.ferplus_agrees is None
    assert audit.load(tmp_path / "nothing") is None


def test_partial_data_has_no_place_on_the_benchmark(findings, tmp_path):
    (tmp_path / "benchmark").mkdir()
    with pytest.raises(UserError, match="whole FER2013 only"):
        audit.save(tmp_path / "benchmark" / audit.FILE, findings)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("constant", [6, 4], "private_test.constant: must ascend"),
        ("constant", [4, 8], "stay below 8"),
        ("constant", [4], "counts: are not those"),
        ("exact_twin_in_training", [0, 1, 7], "exact twins twins"),
        ("constants", [], "private_test.constants: Extra inputs"),
        ("constant", ["4"], "private_test.constant.0: Input should be a valid integer"),
    ],
)
def test_altered_lists_are_refused(findings, tmp_path, key, value, message):
    path = tmp_path / audit.FILE
    audit.save(path, findings)
    content = json.loads(path.read_text())
    content["private_test"][key] = value
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        audit.load(tmp_path)


def test_a_table_that_lacks_a_part_is_refused(findings, tmp_path):
    path = tmp_path / audit.FILE
    audit.save(path, findings)
    content = json.loads(path.read_text())
    del content["counts"]["twins"]["PrivateTest"]["Training"]
    path.write_text(json.dumps(content))
    with pytest.raises(
        UserError, match=r"counts\.twins\.PrivateTest: must have the keys Training, PublicTest, PrivateTest"
    ):
        audit.load(tmp_path)


# ---- report and command


def test_report_names_rows_and_draws_them(findings, tmp_path):
    text = audit.write_report(tmp_path, findings).read_text()
    assert "labels differ: PrivateTest 1 (Fear, FER+ none) and Training 1 (Disgust, FER+ Disgust)" in text
    assert "| PrivateTest | 5 (62.5 %) | 1 (12.5 %) | 0 (0.0 %) |" in text
    assert "| all | 20 (100.0 %) | 6 (100.0 %) | 5 (62.5 %) |" in text
    sheet = np.asarray(Image.open(tmp_path / "examples.png"))
    enlarged = np.kron(findings.faces.images[27], np.ones((2, 2), np.uint8))
    assert (sheet[18:114, 8:104] == enlarged).all()


def test_report_of_data_with_nothing_wrong(toy, tmp_path):
    found = audit.examine(toy, threshold=1.0)
    assert "no votes given" in audit.summary(found)
    assert audit.write_report(tmp_path, found).is_file()


def test_command_writes_lists_and_report(planned, tmp_path, monkeypatch, capsys):
    toyfaces.write(planned, tmp_path / "data", "fer2013")
    write_votes(next((tmp_path / "data").rglob("fer2013.csv")).parent / ferplus.FILE, votes_of(planned))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["fer-bench", "data", "audit", "data", "--write", "audit.json"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    out, err = capsys.readouterr()
    assert not caught.value.code
    assert "3 (37.5 %) of PrivateTest are in Training too, 1 with another label there" in out
    assert "FER+ majority        agrees on 5 (62.5 %) of PrivateTest" in out
    assert "comparing images: 100 %" in err
    assert json.loads((tmp_path / "audit.json").read_text())["data"]["digest"] == planned.digest
    assert (tmp_path / "runs/audit/audit.md").is_file()
