"""The embedded data set: drawn faces in seven expressions, in the shape, order and parts of FER2013.

Expressions differ by brows, eyes and mouth only. Pose, light, noise, hair, glasses and covered patches vary freely, so
a linear model on pixels stays clearly below a small convolutional network: on PublicTest of the default set, trained
on its Training, logistic regression on standardised pixels (C = 0.01) reached 50 %, four 3x3 convolutions with batch
normalisation (32 to 128 filters, AdamW, flips) 85 % after 5 of 20 epochs and 96 % at the end.

All drawing is polygons on whole points of a grid four times as fine, without fonts, so that a seed gives the same bytes
again. They depend on Pillow's polygons: 11.2.1 to 13.0 agree, 11.1 and older fill about one pixel an image otherwise.
"""

import csv
import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from fer_bench.data import EMOTIONS, PARTS, SIDE, Faces, assemble

FINE = 4  # drawn this many times as fine, then averaged
SHARES = (0.15, 0.10, 0.14, 0.19, 0.15, 0.12, 0.15)  # of the classes: mildly imbalanced
FORMS = ("fer2013", "icml", "kaggle", "folders")

Point = tuple[float, float]


@dataclass(frozen=True)
class Expression:
    """Brows, eyes and mouth in units of half the face's width; positive is up or open."""

    brow_inner: float  # height of the inner end above its place at rest
    brow_outer: float
    brow_arch: float
    eye_open: float  # half the height of the eye
    mouth_width: float  # half of it
    mouth_lift: float  # of the corners over the middle
    mouth_open: float  # half the height of the opening
    mouth_shift: float  # of the whole mouth


EXPRESSIONS = (
    Expression(-0.14, 0.03, 0.00, 0.085, 0.27, -0.07, 0.03, 0.00),  # Angry: inner brows drawn down, lips pressed
    Expression(-0.07, -0.03, 0.04, 0.050, 0.26, -0.12, 0.09, 0.07),  # Disgust: eyes narrow, upper lip raised
    Expression(0.13, 0.03, 0.02, 0.140, 0.30, -0.05, 0.09, -0.02),  # Fear: inner brows and eyes up, mouth stretched
    Expression(0.02, 0.02, 0.05, 0.070, 0.36, 0.16, 0.08, 0.02),  # Happy: mouth corners up
    Expression(0.11, -0.06, 0.00, 0.070, 0.24, -0.12, 0.02, -0.02),  # Sad: brows slope outward, corners down
    Expression(0.14, 0.12, 0.09, 0.140, 0.18, 0.00, 0.17, -0.05),  # Surprise: all brows up, round mouth
    Expression(0.00, 0.00, 0.04, 0.095, 0.28, 0.00, 0.03, 0.00),  # Neutral
)
JITTER = Expression(0.035, 0.035, 0.025, 0.014, 0.035, 0.035, 0.022, 0.03)  # half the spread of each, in all faces


def load(seed: int = 0, counts: tuple[int, int, int] = (1400, 350, 350)) -> Faces:
    """Draw ``counts`` faces for Training, PublicTest and PrivateTest; the same seed gives the same bytes."""
    rng = np.random.default_rng(seed)
    parts = np.repeat(np.arange(len(PARTS)), counts)
    labels = rng.choice(len(EMOTIONS), size=len(parts), p=SHARES)
    images = np.stack([draw(label, rng) for label in labels]) if len(labels) else np.zeros((0, SIDE, SIDE), np.uint8)
    return assemble(images, labels, parts, source="toy faces", name="toyfaces")


def draw(label: int, rng: np.random.Generator) -> np.ndarray:
    """One face (48, 48) uint8 of the expression ``label``."""
    from PIL import Image, ImageDraw

    canvas = Image.new("L", (SIDE * FINE, SIDE * FINE), int(rng.integers(20, 236)))
    pen = ImageDraw.Draw(canvas)
    skin = int(rng.integers(90, 226))
    pose = sample_pose(rng)
    head(pen, pose, skin, rng)
    features(pen, pose, skin, sample_expression(label, rng), rng)
    cover(pen, rng)
    return lit(np.asarray(canvas.reduce(FINE)), rng)


def sample_expression(label: int, rng: np.random.Generator) -> Expression:
    """The class's expression, from faint to strong, each value moved a little by itself."""
    strength = rng.uniform(0.55, 1.25)
    rest = EXPRESSIONS[-1]
    values = {}
    for name in (field.name for field in fields(Expression)):
        calm, full = getattr(rest, name), getattr(EXPRESSIONS[label], name)
        values[name] = calm + strength * (full - calm) + getattr(JITTER, name) * rng.uniform(-1, 1)
    return Expression(**values)


@dataclass(frozen=True)
class Pose:
    """From face coordinates (x right, y up, half a face's width is 1) to points of the fine grid."""

    centre: Point
    scale: tuple[float, float]
    cosine: float
    sine: float
    yaw: float  # how far the features are turned to one side

    def points(self, shape: list[Point], turned: bool = True) -> list[tuple[int, int]]:
        """Whole points of the grid; ``turned`` shapes lie on the front of the face and move with the yaw."""
        return [self.point(x + self.yaw * (1 - x * x) * turned, y) for x, y in shape]

    def point(self, x: float, y: float) -> tuple[int, int]:
        """One whole point."""
        right, down = x * self.scale[0], -y * self.scale[1]
        return (
            round(self.centre[0] + self.cosine * right - self.sine * down),
            round(self.centre[1] + self.sine * right + self.cosine * down),
        )


def sample_pose(rng: np.random.Generator) -> Pose:
    """Shift, size, width against height, rotation in the plane and turn of the head."""
    side = SIDE * FINE
    size = side * rng.uniform(0.34, 0.41)
    angle = math.radians(rng.uniform(-10, 10))
    centre = (side * (0.5 + rng.uniform(-0.04, 0.04)), side * (0.5 + rng.uniform(-0.04, 0.04)))
    scale = (size * rng.uniform(0.92, 1.06), size * rng.uniform(0.97, 1.09))
    return Pose(centre, scale, math.cos(angle), math.sin(angle), rng.uniform(-0.12, 0.12))


def ellipse(x: float, y: float, width: float, height: float, corners: int = 24) -> list[Point]:
    """A polygon around (x, y) with half axes ``width`` and ``height``."""
    turns = [2 * math.pi * i / corners for i in range(corners)]
    return [(x + width * math.cos(turn), y + height * math.sin(turn)) for turn in turns]


def arc(start: Point, middle: Point, end: Point, steps: int = 8) -> list[Point]:
    """Points of a quadratic curve that passes through all three."""
    points = []
    for t in (i / steps for i in range(steps + 1)):
        a, b, c = (1 - t) * (1 - 2 * t), 4 * t * (1 - t), t * (2 * t - 1)
        points.append((a * start[0] + b * middle[0] + c * end[0], a * start[1] + b * middle[1] + c * end[1]))
    return points


def head(pen: Any, pose: Pose, skin: int, rng: np.random.Generator) -> None:
    """Ears, outline, hair and nose: nothing here depends on the expression."""
    hair = int(rng.integers(10, 200))
    jaw = rng.uniform(0.75, 1.0)
    outline = [(x * (jaw if y < -0.3 else 1.0), y) for x, y in ellipse(0, 0, 1, 1.22, 32)]
    pen.polygon(pose.points(ellipse(0, 0.12, 1.1, 1.3), turned=False), fill=hair)
    for ear in (-1, 1):
        pen.polygon(pose.points(ellipse(ear, 0, 0.14, 0.24, 12), turned=False), fill=int(skin * 0.85))
    pen.polygon(pose.points(outline, turned=False), fill=skin)
    line = rng.uniform(0.6, 1.0)
    fringe = arc((-0.95, 0.55), (rng.uniform(-0.3, 0.3), line), (0.95, 0.55)) + arc((0.95, 0.6), (0, 1.3), (-0.95, 0.6))
    pen.polygon(pose.points(fringe, turned=False), fill=hair)
    nose = [(0, 0.15), (rng.uniform(0.08, 0.16), -0.2), (-0.1, -0.2)]
    pen.polygon(pose.points(nose), fill=int(skin * rng.uniform(0.75, 0.92)))


def features(pen: Any, pose: Pose, skin: int, face: Expression, rng: np.random.Generator) -> None:
    """Brows, eyes and mouth; sometimes glasses."""
    dark = int(skin * rng.uniform(0.15, 0.55))
    apart, height, thick = rng.uniform(0.38, 0.46), rng.uniform(0.18, 0.28), rng.uniform(0.025, 0.06)
    glasses = rng.random() < 0.2
    look = rng.uniform(-0.05, 0.05)
    for side in (-1, 1):
        eye(pen, pose, (side * apart, height), face.eye_open, min(255, int(skin * 1.25)), dark, look)
        brow(pen, pose, side * apart, side, height + 0.25, face, thick, dark)
        if glasses:
            frame = pose.points(ellipse(side * apart, height, 0.3, 0.24))
            pen.line([*frame, frame[0]], fill=dark, width=FINE)
    mouth(pen, pose, rng.uniform(-0.62, -0.5), face, int(skin * rng.uniform(0.4, 0.75)), dark)


def eye(pen: Any, pose: Pose, at: Point, height: float, white: int, dark: int, look: float) -> None:
    """An almond with an iris that the lids cut off."""
    x, y = at
    height = max(height, 0.03)
    left, right = (x - 0.2, y), (x + 0.2, y)
    lids = arc(left, (x, y + height), right) + arc(right, (x, y - height), left)
    pen.polygon(pose.points(lids), fill=white, outline=dark)
    pen.polygon(pose.points(ellipse(x + look, y, 0.085, min(0.085, height), 12)), fill=dark)


def brow(pen: Any, pose: Pose, x: float, side: int, y: float, face: Expression, thick: float, dark: int) -> None:
    """A curved bar over one eye; ``side`` -1 is the left one."""
    inner, outer = (x - side * 0.22, y + face.brow_inner), (x + side * 0.24, y + face.brow_outer)
    middle = (x, (inner[1] + outer[1]) / 2 + face.brow_arch)
    upper = arc(inner, middle, outer)
    lower = [(px, py - 2 * thick) for px, py in reversed(upper)]
    pen.polygon(pose.points(upper + lower), fill=dark)


def mouth(pen: Any, pose: Pose, y: float, face: Expression, lips: int, dark: int) -> None:
    """Lips as the area between two curves, with the opening inside."""
    y, width = y + face.mouth_shift, max(face.mouth_width, 0.1)
    corner = y + face.mouth_lift / 2
    for thick, fill in ((0.05, lips), (0.0, dark)):
        half = max(face.mouth_open, 0.012) + thick
        middle = y - face.mouth_lift / 2
        left, right = (-width - thick, corner), (width + thick, corner)
        shape = arc(left, (0, middle + half), right) + arc(right, (0, middle - half), left)
        pen.polygon(pose.points(shape), fill=fill)


def cover(pen: Any, rng: np.random.Generator) -> None:
    """One patch in two of the faces hides a part, as hands and text do."""
    if rng.random() < 0.5:
        side = SIDE * FINE
        x, y = rng.integers(0, side, 2)
        width, height = rng.integers(side // 12, side // 4, 2)
        pen.rectangle([int(x), int(y), int(x + width), int(y + height)], fill=int(rng.integers(0, 256)))


def lit(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Light from one side, contrast, brightness and sensor noise, on (48, 48) uint8.

    The noise is a sum of whole numbers, which no platform rounds differently.
    """
    ramp = np.linspace(-1, 1, SIDE)
    slope_x, slope_y = rng.uniform(-0.35, 0.35, 2)
    light = 1 + slope_x * ramp[None, :] + slope_y * ramp[:, None]
    spread = int(rng.integers(1, 10))
    noise = rng.integers(-spread, spread + 1, (2, SIDE, SIDE)).sum(axis=0)
    value = (image - 128.0) * rng.uniform(0.55, 1.1) + 128 + rng.uniform(-30, 30)
    return np.clip(np.rint(value * light + noise), 0, 255).astype(np.uint8)


def write(faces: Faces, out: Path, form: str) -> None:
    """Write any ``Faces`` below ``out`` as fer2013.csv, icml_face_data.csv, train.csv + test.csv or image folders."""
    if form not in FORMS:
        raise ValueError(f"form must be one of {', '.join(FORMS)}; got {form!r}")
    out.mkdir(parents=True, exist_ok=True)
    {"fer2013": write_fer2013, "icml": write_icml, "kaggle": write_kaggle, "folders": write_folders}[form](faces, out)


def pixel_texts(faces: Faces) -> list[str]:
    """The pixels of each face as 2,304 decimal numbers."""
    words = [str(value) for value in range(256)]
    return [" ".join([words[value] for value in image.ravel().tolist()]) for image in faces.images]


def write_fer2013(faces: Faces, out: Path) -> None:
    """emotion,pixels,Usage."""
    with open(out / "fer2013.csv", "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["emotion", "pixels", "Usage"])
        rows = zip(faces.labels, pixel_texts(faces), faces.parts, strict=True)
        writer.writerows([label, pixels, PARTS[part]] for label, pixels, part in rows)


def write_icml(faces: Faces, out: Path) -> None:
    """emotion, Usage, pixels with the official leading spaces."""
    with open(out / "icml_face_data.csv", "w", newline="") as file:
        file.write("emotion, Usage, pixels\n")
        for label, pixels, part in zip(faces.labels, pixel_texts(faces), faces.parts, strict=True):
            file.write(f"{label}, {PARTS[part]}, {pixels}\n")


def write_kaggle(faces: Faces, out: Path) -> None:
    """train.csv with emotion,pixels; test.csv with pixels alone, PublicTest then PrivateTest."""
    rows = list(zip(faces.labels, pixel_texts(faces), faces.parts, strict=True))
    train = "".join(f'{label},"{pixels}"\n' for label, pixels, part in rows if part == 0)
    test = "".join(f'"{pixels}"\n' for _, pixels, part in rows if part != 0)
    (out / "train.csv").write_text("emotion,pixels\n" + train)
    (out / "test.csv").write_text("pixels\n" + test)


def write_folders(faces: Faces, out: Path) -> None:
    """train/<emotion>/Training_<row>.png and test/<emotion>/PublicTest_<row>.png, PrivateTest_<row>.png."""
    from PIL import Image

    for row, (image, label, part) in enumerate(zip(faces.images, faces.labels, faces.parts, strict=True)):
        folder = out / ("train" if part == 0 else "test") / EMOTIONS[label].lower()
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{PARTS[part]}_{row}.png")
