"""The most confident mistakes as one picture: FER2013's images, so it belongs into a folder that is not committed."""

import io
from pathlib import Path

import numpy as np

from fer_bench import data, splits
from fer_bench.data import EMOTIONS
from fer_bench.diagnosis.mistakes import Diagnosis
from fer_bench.files import write_atomic

MOST, COLUMNS = 40, 8
ZOOM, GAP, CAPTION = 2, 8, 40  # size of a pixel, and heights in pixels


def write(folder: Path, found: Diagnosis, digest: str, data_dir: Path) -> str:
    """Draw the mistakes in PublicTest from the data with that digest; a sentence that says where, or why not."""
    if found.part not in splits.OPEN_PARTS:
        return f"not drawn: {found.part} is not opened for a picture"
    faces = data.load(data_dir)
    if faces.digest != digest:
        return f"not drawn: {data_dir} has the digest {faces.digest[:12]}, {found.title} was made on {digest[:12]}"
    path = folder / f"{found.title}-{found.part}-{found.view}.png"
    write_atomic(path, draw(splits.part(faces, found.part)[0], found))
    return f"drawn: {path}"


def draw(images: np.ndarray, found: Diagnosis) -> bytes:
    """Return a PNG of the surest mistakes from the images (N, S, S) uint8 of the part: row, label and class seen."""
    from PIL import Image, ImageDraw, ImageFont

    shown = found.mistakes[:MOST]
    width, height = ZOOM * images.shape[2] + GAP, ZOOM * images.shape[1] + CAPTION
    lines = max(1, -(-len(shown) // COLUMNS))
    sheet = Image.new("L", (COLUMNS * width + GAP, lines * height + GAP), 255)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default()
    for place, mistake in enumerate(shown):
        left, top = GAP + place % COLUMNS * width, GAP + place // COLUMNS * height
        image = Image.fromarray(images[mistake.row])
        sheet.paste(image.resize((width - GAP, height - CAPTION), Image.Resampling.NEAREST), (left, top))
        label, seen = EMOTIONS[mistake.label], EMOTIONS[mistake.predicted]
        words = f"{mistake.row}: {100 * mistake.confidence:.0f} %\nlabel {label}\nseen {seen}"
        pen.multiline_text((left, top + height - CAPTION), words, fill=0, font=font, spacing=0)
    buffer = io.BytesIO()
    sheet.save(buffer, format="png")
    return buffer.getvalue()
