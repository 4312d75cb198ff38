import csv
import functools
import hashlib
import itertools
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fer_bench import data, toyfaces
from fer_bench.data import cache, folders, loading, sums, table
from fer_bench.errors import UserError
from fer_bench.files import sha256_file

TOOL = Path(__file__).resolve().parents[2] / "shared" / "tools" / "fer2013_files.py"
GRAY = " ".join(["7"] * 2304)


def written(faces, out, form):
    toyfaces.write(faces, out, form)
    return out


def same(left, right):
    pairs = ((left.images, right.images), (left.labels, right.labels), (left.parts, right.parts))
    return all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in pairs)


def csv_file(folder, *lines, name="fer2013.csv", header="emotion,pixels,Usage", end="\n"):
    path = folder / name
    path.write_bytes(end.join([header, *lines]).encode() + end.encode())
    return path


# The forms


@pytest.mark.parametrize("form", ["fer2013", "icml", "folders"])
def test_forms_give_back_the_faces_that_were_written(toy, tmp_path, form):
    loaded = data.load(written(toy, tmp_path, form))
    assert same(loaded, toy)
    assert loaded.digest == toy.digest
    assert (loaded.images.dtype, loaded.labels.dtype, loaded.parts.dtype) == (np.uint8, np.int64, np.int8)
    assert (loaded.name, loaded.canonical, loaded.skipped) == ("fer2013", False, 0)


def test_kaggle_form_gives_training_rows_and_unlabelled_test_rows(toy, tmp_path):
    loaded = data.load(written(toy, tmp_path, "kaggle"))
    train = toy.parts == 0
    np.testing.assert_array_equal(loaded.images, toy.images)
    np.testing.assert_array_equal(loaded.labels, np.where(train, toy.labels, -1))
    np.testing.assert_array_equal(loaded.parts, np.where(train, 0, 2))
    assert loaded.source == "train.csv + test.csv"
    assert any("42 rows, not the official 7178" in note for note in loaded.notes)
    with pytest.raises(UserError, match=r"42 test rows carry no labels.*fer-bench predict.*not scored.*fer2013.csv"):
        data.require_labels(loaded)
    data.require_labels(loaded, "Training")
    data.require_labels(toy)


def test_test_csv_of_official_length_is_split_by_place_even_where_rows_are_skipped(tmp_path):
    rows = [GRAY] * 7178
    rows[3588] = "1 2 3"
    path = csv_file(tmp_path, *rows, name="test.csv", header="pixels")
    loaded = data.load(path, skip_bad_rows=True)
    assert np.bincount(loaded.parts, minlength=3).tolist() == [0, 3588, 3589]
    assert loaded.skipped == 1


def test_train_or_test_alone_loads_with_a_note(toy, tmp_path):
    written(toy, tmp_path, "kaggle")
    train, test = data.load(tmp_path / "train.csv"), data.load(tmp_path / "test.csv")
    assert (train.source, len(train.labels), set(train.parts.tolist())) == ("train.csv", 56, {0})
    assert (test.source, len(test.labels), set(test.labels.tolist())) == ("test.csv", 42, {-1})
    assert "all its rows are Training" in train.notes[0]
    assert "predicted, not scored" in test.notes[1]
    (tmp_path / "test.csv").unlink()
    assert same(data.load(tmp_path), train)


def test_quotes_crlf_bom_spaces_blank_lines_column_order_and_a_missing_last_newline(tmp_path):
    plain = csv_file(tmp_path, f"3,{GRAY},Training", f"6,{GRAY},PrivateTest")
    odd = tmp_path / "odd.csv"
    rows = [b'\xef\xbb\xbf"id", Usage ,"Pixels", emotion', f'1, Training ,"{GRAY}", 3'.encode(), b""]
    odd.write_bytes(b"\r\n".join([*rows, f"2,PrivateTest,  {GRAY.replace(' ', '  ')} ,6".encode()]))
    assert data.load(odd).digest == data.load(plain).digest


def test_rows_come_in_canonical_order_whatever_the_file_has(tmp_path):
    rows = [(1, "PrivateTest"), (2, "Training"), (3, "PublicTest"), (4, "Training")]
    loaded = data.load(csv_file(tmp_path, *(f"{label},{GRAY},{usage}" for label, usage in rows)))
    assert loaded.labels.tolist() == [2, 4, 3, 1]
    assert loaded.parts.tolist() == [0, 0, 1, 2]


def test_digest_is_the_documented_hash(toy):
    expected = hashlib.sha256(b"faces-v1 98\n")
    expected.update(b"".join(bytes(image.ravel().tolist()) for image in toy.images))
    expected.update(b"".join(int(label).to_bytes(8, "little", signed=True) for label in toy.labels))
    expected.update(bytes(toy.parts.tolist()))
    assert toy.digest == expected.hexdigest()


def test_the_environment_gives_the_path_and_its_absence_is_explained(toy, tmp_path, monkeypatch):
    monkeypatch.setenv("FER_BENCH_DATA_DIR", str(written(toy, tmp_path, "fer2013")))
    assert data.load().digest == toy.digest
    monkeypatch.delenv("FER_BENCH_DATA_DIR")
    with pytest.raises(UserError, match=r"--data-dir PATH or set FER_BENCH_DATA_DIR"):
        data.load()


def test_torchvision_layout_and_preference_among_forms(toy, tmp_path):
    inner = tmp_path / "fer2013"
    sources = ["image folders", "train.csv + test.csv", "icml_face_data.csv", "fer2013.csv"]
    for form, source in zip(["folders", "kaggle", "icml", "fer2013"], sources, strict=True):
        written(toy, inner, form)
        assert data.load(tmp_path).source == source
        assert data.load(inner).source == source


def test_canonical_needs_the_known_sum(toy, tmp_path, monkeypatch):
    path = written(toy, tmp_path, "fer2013") / "fer2013.csv"
    monkeypatch.setattr(loading, "OFFICIAL_MD5", {hashlib.md5(path.read_bytes()).hexdigest()})
    assert data.load(path, cache=tmp_path / "own").canonical
    path.write_bytes(path.read_bytes() + b"\n")
    assert not data.load(path, cache=tmp_path / "own").canonical


# Image folders


def save(path, value, size=(48, 48), mode="L"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value if mode == "L" else (value,) * 3).save(path)


def test_folders_take_part_and_order_from_names_and_labels_from_any_usual_folder_name(tmp_path):
    save(tmp_path / "test" / "Surprised" / "PrivateTest_88305.jpg", 40)
    save(tmp_path / "test" / "HAPPINESS" / "PublicTest_9999999.png", 30, mode="RGB")
    save(tmp_path / "train" / "fearful" / "Training_10.jpeg", 20)
    save(tmp_path / "train" / "anger" / "Training_9.PNG", 10)
    (tmp_path / "train" / "anger" / "Thumbs.db").write_text("not an image")
    loaded = data.load(tmp_path)
    assert loaded.images[:, 5, 5].tolist() == [10, 20, 30, 40]
    assert loaded.labels.tolist() == [0, 2, 3, 5]
    assert loaded.parts.tolist() == [0, 0, 1, 2]
    assert loaded.source == "image folders"
    assert "JPEG" in loaded.notes[0]


def test_bad_images_are_named_with_their_reason(tmp_path):
    save(tmp_path / "train" / "sad" / "Training_1.png", 1)
    save(tmp_path / "train" / "sad" / "Training_2.png", 1, size=(48, 47))
    save(tmp_path / "train" / "sad" / "holiday.png", 1)
    whole = (tmp_path / "train" / "sad" / "Training_1.png").read_bytes()
    (tmp_path / "train" / "sad" / "Training_3.png").write_bytes(whole[:50])
    (tmp_path / "train" / "sad" / "Training_4.png").write_bytes(b"")
    with pytest.raises(UserError) as caught:
        data.load(tmp_path)
    for text in (
        "4 bad rows of 5",
        "train/sad/Training_2.png: 48 x 47 pixels, expected 48 x 48",
        "train/sad/Training_3.png: is no readable image",
        "train/sad/Training_4.png: is an empty file",
        "train/sad/holiday.png: the name does not begin with Training_, PublicTest_ or PrivateTest_",
        "--skip-bad-rows",
    ):
        assert text in str(caught.value)
    assert data.load(tmp_path, skip_bad_rows=True).skipped == 4


def test_an_unknown_emotion_folder_is_refused(tmp_path):
    save(tmp_path / "train" / "sad" / "Training_1.png", 1)
    save(tmp_path / "train" / "contempt" / "Training_2.png", 1)
    with pytest.raises(UserError, match=r"contempt: the folder's name is no emotion"):
        data.load(tmp_path)


# Bad rows

BAD = {
    "2303 pixels, expected 2304": f"0,{GRAY[:-2]},Training",
    "2305 pixels, expected 2304": f"0,{GRAY} 1,Training",
    "pixel 2304 is '256', expected an integer 0 to 255": f"0,{GRAY[:-1]}256,Training",
    "pixel 1 is '-7'": f"0,-{GRAY},Training",
    "pixel 2304 is '7.0'": f"0,{GRAY}.0,Training",
    "pixel 2304 is '1007'": f"0,{GRAY[:-1]}1007,Training",
    "pixel 2 is 'x'": f"0,7 x {GRAY[4:]},Training",
    "0 pixels, expected 2304": "0,,Training",
    "emotion is '7', expected 0 to 6": f"7,{GRAY},Training",
    "emotion is ''": f",{GRAY},Training",
    "emotion is '3.0'": f"3.0,{GRAY},Training",
    "Usage is 'training', expected Training, PublicTest or PrivateTest": f"0,{GRAY},training",
    "Usage is 'Trainingé'": f"0,{GRAY},Trainingé",
    "4 fields, expected 3": f"0,{GRAY},Training,",
    "2 fields, expected 3": f"0,{GRAY}",
    "parted by something else": f"0,{GRAY[:1]}\t{GRAY[2:]},Training",
}


@pytest.mark.parametrize("reason", BAD)
def test_every_kind_of_bad_row_is_named_with_its_line(tmp_path, reason):
    path = csv_file(tmp_path, f"0,{GRAY},Training", "", BAD[reason], f"1,{GRAY},PublicTest")
    with pytest.raises(UserError) as caught:
        data.load(path)
    assert f"{path}: 1 bad row of 3: line 4: " in str(caught.value)
    assert reason in str(caught.value)
    kept = data.load(path, skip_bad_rows=True)
    assert (kept.labels.tolist(), kept.skipped) == ([0, 1], 1)


def test_the_first_five_bad_rows_and_the_count_are_told(tmp_path):
    rows = [f"0,{GRAY},Training"] * 1300
    for line in (3, 8, 513, 600, 601, 1300):
        rows[line - 2] = f"9,{GRAY},Training"
    with pytest.raises(UserError) as caught:
        data.load(csv_file(tmp_path, *rows))
    assert "6 bad rows of 1300, the first 5: " in str(caught.value)
    assert re.findall(r"line (\d+):", str(caught.value)) == ["3", "8", "513", "600", "601"]
    assert "\n" not in str(caught.value)


def test_a_file_of_bad_rows_alone_is_refused_even_when_they_may_be_skipped(tmp_path):
    with pytest.raises(UserError, match="2 bad rows of 2"):
        data.load(csv_file(tmp_path, "a,b,c", "d,e,f"), skip_bad_rows=True)


def test_decode_agrees_with_a_regular_expression_on_damaged_text():
    rng = np.random.default_rng(5)
    fields = []
    for _ in range(150):
        text = bytearray(" ".join(map(str, rng.integers(0, 256, 2304))).encode())
        for _ in range(rng.integers(0, 3)):
            text[rng.integers(len(text))] = rng.choice(bytearray(b"0129 x-\xff"))
        fields.append(bytes(text).strip())
    images, good = table.decode(fields)
    numbers = [re.findall(rb"\d+", field) for field in fields]
    clean = [bool(re.fullmatch(rb"\d{1,3}( +\d{1,3}){2303}", field)) for field in fields]
    expected = [ok and max(map(int, row)) <= 255 for ok, row in zip(clean, numbers, strict=True)]
    assert 20 < sum(expected) < 140
    assert good.tolist() == expected
    for row in np.flatnonzero(good):
        assert images[row].tolist() == [int(number) for number in numbers[row]]


# Unusable files and paths


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"emotion,pixels,Usage\n", "a header and no rows"),
        (b"\nemotion,pixels\n", "line 1 is blank"),
        (b"0,70 80,Training\n", "no column 'pixels', expected a header such as 'emotion,pixels,Usage'; got '0,70 80"),
        (b"emotion,Usage\n0,Training\n", "no column 'pixels'"),
        (b"pixels,emotion,pixels\n", "names the column 'pixels' 2 times"),
        ("emotion,pixels".encode("utf-16"), "line 1 is not UTF-8 text"),
        (b"PK\x03\x04....", "is a zip archive, not a CSV file: unpack it first"),
        (b"\x1f\x8b\x08...", "is a gzip archive"),
    ],
)
def test_unusable_files_are_explained(tmp_path, content, message):
    path = tmp_path / "fer2013.csv"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        data.load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)


def test_paths_without_data_are_explained(tmp_path):
    with pytest.raises(UserError, match=r"nowhere: no such file or folder"):
        data.load(tmp_path / "nowhere")
    (tmp_path / "train").mkdir()
    with pytest.raises(UserError, match=r"nothing recognised; looked for fer2013.csv, icml_face_data.csv, train.csv"):
        data.load(tmp_path)


def test_empty_emotion_folders_are_explained(tmp_path):
    (tmp_path / "train" / "happy").mkdir(parents=True)
    with pytest.raises(UserError, match=r"emotion folders hold no \.png, \.jpg, \.jpeg file"):
        data.load(tmp_path)


# The cache


@pytest.fixture
def cached(toy, tmp_path):
    """(load, the two files of the cache entry): everything in one temporary folder."""
    source = written(toy, tmp_path / "source", "fer2013") / "fer2013.csv"
    load = functools.partial(data.load, source, cache=tmp_path / "faces")
    load()
    images, rest = sorted((tmp_path / "faces").iterdir())
    assert (images.suffix, rest.suffix) == (".npy", ".npz")
    return load, (images, rest)


def test_a_second_load_does_not_parse(cached, toy, monkeypatch):
    load, _ = cached
    monkeypatch.setattr(table, "read", None)
    again = load()
    assert same(again, toy)
    assert (again.digest, again.source, again.notes) == (toy.digest, "fer2013.csv", ())


@pytest.mark.parametrize("which", [0, 1])
def test_damage_anywhere_is_noticed_and_the_entry_rebuilt(cached, toy, which):
    load, entry = cached[0], cached[1][which]
    whole = entry.read_bytes()
    rng = np.random.default_rng(0)
    places = [0, 4, 40, 100, len(whole) - 10, len(whole) - 60, *rng.integers(0, len(whole), 20).tolist()]
    for place in places:
        entry.write_bytes(whole[:place] + bytes([whole[place] ^ 0x41]) + whole[place + 1 :])
        os.utime(entry, (place, place))  # a system's clock may not have ticked since the entry was written
        assert same(load(), toy), place
    for length in (0, 10, len(whole) // 2, len(whole) - 1):
        entry.write_bytes(whole[:length])
        assert same(load(), toy)
        assert cache.read(entry.parent, entry.stem) is not None


def test_an_entry_under_a_wrong_name_is_not_believed(cached, tmp_path, toy):
    _, entry = cached
    other = csv_file(tmp_path, f"4,{GRAY},Training")
    key = cache.key("csv", [hashlib.sha256(other.read_bytes()).hexdigest()], False)
    for file in entry:
        file.rename(file.with_name(key + file.suffix))
    assert data.load(other, cache=entry[0].parent).labels.tolist() == [4]


def test_images_are_mapped_and_changing_them_changes_no_file(cached, toy):
    load, _ = cached
    first = load()
    first.images[0] = 0
    assert same(load(), toy)


def test_a_file_that_changes_while_it_is_read_is_refused_and_not_stored(tmp_path, monkeypatch):
    path, parse = csv_file(tmp_path, f"4,{GRAY},Training"), table.read

    def grows(path):
        with open(path, "a") as file:
            file.write(f"5,{GRAY},Training\n")
        return parse(path)

    monkeypatch.setattr(table, "read", grows)
    with pytest.raises(UserError, match=r"fer2013.csv: changed while it was read"):
        data.load(path, cache=tmp_path / "faces")
    assert not list(tmp_path.glob("faces/*.np*"))


def test_the_sum_of_a_file_is_remembered_until_the_file_changes(tmp_path, monkeypatch):
    monkeypatch.setattr(sums, "RECENT", -(10**15))
    path, asked = tmp_path / "file", []

    def summed(path):
        asked.append(path)
        return sha256_file(path)

    monkeypatch.setattr(sums, "sha256_file", summed)
    for content, times in ((b"one", 1), (b"one", 1), (b"two", 2), (b"two", 2)):
        if not path.exists() or path.read_bytes() != content:
            before = path.stat() if path.exists() else None
            path.write_bytes(content)
            if before:
                os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # same size, same time of the last change
                while path.stat().st_ctime_ns == before.st_ctime_ns:  # as systems whose clock ticks every 4 ms have it
                    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert sums.of(path, tmp_path / "faces") == hashlib.sha256(content).hexdigest()
        assert len(asked) == times
    (tmp_path / "faces" / sums.FILE).write_text('{"x": ')
    assert sums.of(path, tmp_path / "faces") == hashlib.sha256(b"two").hexdigest()
    assert len(asked) == 3


def test_a_file_that_has_just_changed_is_read_again(tmp_path, monkeypatch):
    monkeypatch.setattr(sums, "RECENT", 10**18)  # however slow this machine is
    path = tmp_path / "file"
    path.write_bytes(b"one")
    sums.of(path, tmp_path / "faces")
    assert not (tmp_path / "faces").exists()


def test_the_key_tells_skipping_content_and_form_apart(toy, tmp_path):
    inputs = itertools.product(("csv", "test.csv"), (["a"], ["b"]), (True, False))
    assert len({cache.key(*facts) for facts in inputs}) == 8
    path = csv_file(tmp_path, f"0,{GRAY},Training", "bad")
    assert data.load(path, skip_bad_rows=True).skipped == 1
    assert data.load(path, skip_bad_rows=True).skipped == 1
    with pytest.raises(UserError):
        data.load(path)


def test_no_cache_folder_is_no_error(toy, tmp_path, monkeypatch):
    source = written(toy, tmp_path, "fer2013")
    (tmp_path / "file").write_text("")
    assert same(data.load(source, cache=tmp_path / "file" / "faces"), toy)

    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache, "write_atomic", full)
    assert same(data.load(source, cache=tmp_path / "faces"), toy)


def test_a_changed_image_changes_the_folder_key(toy, tmp_path):
    written(toy, tmp_path, "folders")
    before = folders.content(tmp_path)
    save(next((tmp_path / "train").rglob("*.png")), 200)
    assert folders.content(tmp_path) != before
    assert data.load(tmp_path).digest != toy.digest


# check


def test_check_tells_counts_digest_and_notes(toy, tmp_path):
    text = data.check(written(toy, tmp_path, "kaggle"))
    lines = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line}
    train = np.bincount(toy.labels[toy.parts == 0], minlength=7)
    assert lines["form"] == ["train.csv", "+", "test.csv"]
    assert lines["rows"] == ["98"]
    assert lines["copy"] == ["non-canonical", "copy"]
    assert lines["digest"] == [data.load(tmp_path).digest]
    for emotion, count in zip(data.EMOTIONS, train, strict=True):
        assert lines[emotion] == [str(count), "0", "0", str(count)]
    assert lines["unlabelled"] == ["0", "0", "42", "42"]
    assert lines["all"] == ["56", "0", "42", "98"]
    assert "note: test.csv has no labels: its rows can be predicted, not scored" in text
    assert len({len(line) for line in text.split("\n\n")[1].splitlines() if not line.startswith("note")}) == 1


# The real data


@pytest.fixture(scope="session")
def forms(real_dir, tmp_path_factory):
    """A function that writes a form of the real data's first rows a part and gives its folder."""
    if not TOOL.exists() or not (real_dir / "images.png").exists():
        pytest.skip("needs the rebuilt FER2013 (images.png, labels.csv) and its tool")

    def write(form, rows):
        out = tmp_path_factory.mktemp(form)
        subprocess.run([sys.executable, str(TOOL), str(out), "--form", form, "--rows", str(rows)], check=True)
        return out

    return write


@pytest.fixture(scope="session")
def official(real_dir):
    """Images (N, 48, 48), labels and Usage read straight from images.png and labels.csv."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    images = np.asarray(Image.open(real_dir / "images.png")).reshape(-1, 48, 48)
    Image.MAX_IMAGE_PIXELS = limit
    with open(real_dir / "labels.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    return images, np.array([int(row["emotion"]) for row in rows]), np.array([row["Usage"] for row in rows])


def first_rows(official, rows):
    images, labels, usage = official
    keep = np.concatenate([np.flatnonzero(usage == part)[:rows] for part in data.PARTS])
    return images[keep], labels[keep]


def test_all_forms_of_the_real_data_are_the_same_faces(forms, official):
    images, labels = first_rows(official, 300)
    loaded = {form: data.load(forms(form, 300)) for form in ("fer2013", "icml", "folders", "kaggle")}
    for form in ("fer2013", "icml", "folders"):
        np.testing.assert_array_equal(loaded[form].images, images)
        np.testing.assert_array_equal(loaded[form].labels, labels)
        assert loaded[form].parts.tolist() == [0] * 300 + [1] * 300 + [2] * 300
    assert len({loaded[form].digest for form in ("fer2013", "icml", "folders")}) == 1
    np.testing.assert_array_equal(loaded["kaggle"].images, images)
    np.testing.assert_array_equal(loaded["kaggle"].labels, [*labels[:300], *[-1] * 600])


def test_many_rows_of_the_real_data_are_the_same_in_both_csv_forms(forms, official):
    images, labels = first_rows(official, 1000)
    left, right = (data.load(forms(form, 1000)) for form in ("fer2013", "icml"))
    np.testing.assert_array_equal(left.images, images)
    np.testing.assert_array_equal(left.labels, labels)
    assert same(left, right)
    assert left.digest == right.digest
