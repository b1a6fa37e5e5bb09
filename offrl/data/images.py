"""Image columns: one compressed image per row, its size checked before it is decoded."""

import io
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

# Minari writes JPEG. PNG is the lossless choice; any other codec is refused unseen.
CODECS = ("JPEG", "PNG")


def decode_images(encoded: Iterable[bytes], shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """Return images as uint8 [N, *shape].

    Raises ValueError naming the row whose image is of another size or codec, or damaged.
    """
    rows: list[npt.NDArray[Any]] = []
    for row, content in enumerate(encoded):
        try:
            with Image.open(io.BytesIO(content), formats=CODECS) as image:
                found = (image.height, image.width)
                if found != shape[:2]:
                    raise ValueError(f"row {row} is an image of {found}, not {shape[:2]}")
                pixels = np.asarray(image, dtype=np.uint8)
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise ValueError(f"row {row} is not a whole JPEG or PNG image") from error
        if pixels.size != np.prod(shape):
            raise ValueError(f"row {row} is an image of {pixels.shape}, not {shape}")
        rows.append(pixels.reshape(shape))
    return np.stack(rows) if rows else np.zeros((0, *shape), np.uint8)
