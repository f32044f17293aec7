"""Frames as the model sees them, in a page: no pixel of them is lost on the way."""

import base64
import io
from html import escape

import numpy as np
import torch
from PIL import Image


def figure(name: str, pixels: torch.Tensor) -> str:
    """Return HTML that shows a picture (3, H, W) or the frames of a clip (F, 3, H, W), uint8."""
    frames = pixels[None] if pixels.dim() == 3 else pixels
    what = "what the model sees" if pixels.dim() == 3 else f"the {len(frames)} frames that the model sees"
    images = "".join(
        f'<img src="{_address(frame)}" alt="frame {number} of {len(frames)}">'
        for number, frame in enumerate(frames.permute(0, 2, 3, 1).cpu().numpy(), start=1)
    )
    return f'<figure class="seen"><figcaption>{escape(name)}: {what}</figcaption><div>{images}</div></figure>'


def _address(frame: np.ndarray) -> str:
    content = io.BytesIO()
    Image.fromarray(frame).save(content, "WEBP", lossless=True, quality=0)  # the fastest of the lossless ways
    return f"data:image/webp;base64,{base64.b64encode(content.getvalue()).decode()}"
