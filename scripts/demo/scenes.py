"""Small scenes of one coloured shape: how they are drawn, filmed as H.264 mp4 files and photographed as PNGs."""

from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw

EDGE = 112  # pixels of a frame's edge
FRAMES_PER_SECOND = 8
COLOURS = {
    "red": (220, 40, 40),
    "green": (40, 180, 60),
    "blue": (50, 90, 230),
    "yellow": (235, 215, 50),
    "purple": (165, 60, 190),
    "white": (245, 245, 245),
}
SHAPES = ("square", "triangle", "cross")
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}


@dataclass(frozen=True)
class Scene:
    """One shape on its way over a background; positions and the radius are shares of the frame's edge."""

    shape: str
    colour: str
    direction: str
    radius: float
    start: tuple[float, float]
    travel: float
    num_frames: int
    texture_seed: int
    contrast: float

    def centre(self, progress: float) -> tuple[float, float]:
        """Return (x, y) of the shape's centre at `progress` 0 (first frame) to 1 (last frame)."""
        dx, dy = DIRECTIONS[self.direction]
        return self.start[0] + dx * self.travel * progress, self.start[1] + dy * self.travel * progress

    def place(self, progress: float) -> str:
        """Return the quarter of the frame that holds the shape's centre: "top left" and so on."""
        x, y = self.centre(progress)
        return f"{'top' if y < 0.5 else 'bottom'} {'left' if x < 0.5 else 'right'}"


def random_scene(rng: np.random.Generator) -> Scene:
    """Return a scene whose shape crosses one of the frame's middle lines and stays clear of both at either end."""
    direction = str(rng.choice(list(DIRECTIONS)))
    radius = rng.uniform(0.17, 0.22)
    dx, dy = DIRECTIONS[direction]
    along = rng.uniform(radius, 0.3)  # distance to the edge where the way begins
    travel = rng.uniform(0.7, 1 - radius) - along
    across = rng.uniform(radius, 0.32)
    across = across if rng.random() < 0.5 else 1 - across
    begin = along if dx + dy > 0 else 1 - along
    return Scene(
        shape=str(rng.choice(SHAPES)),
        colour=str(rng.choice(list(COLOURS))),
        direction=direction,
        radius=radius,
        start=(begin, across) if dx else (across, begin),
        travel=travel,
        num_frames=int(rng.integers(12, 25)),
        texture_seed=int(rng.integers(2**31)),
        contrast=float(rng.choice([0.0, rng.uniform(10, 35)])),
    )


def draw_background(scene: Scene) -> Image.Image:
    """Return a dark plain ground, or one with soft blotches of up to `contrast` grey levels."""
    rng = np.random.default_rng(scene.texture_seed)
    ground = rng.uniform(25, 85, size=3)
    blotches = ground + scene.contrast * rng.uniform(-1, 1, size=(7, 7, 1))
    small = Image.fromarray(np.clip(blotches, 0, 255).astype(np.uint8))
    return small.resize((EDGE, EDGE), Image.Resampling.BICUBIC)


def draw_frame(scene: Scene, background: Image.Image, progress: float) -> Image.Image:
    """Return the background with the shape at `progress` of its way, as an RGB picture of EDGE x EDGE pixels."""
    x, y = (EDGE * value for value in scene.centre(progress))
    radius, colour = EDGE * scene.radius, COLOURS[scene.colour]
    picture = background.copy()
    pen = ImageDraw.Draw(picture)
    if scene.shape == "triangle":
        pen.regular_polygon((x, y, radius), n_sides=3, fill=colour)
    else:
        widths = (0.9, 0.9) if scene.shape == "square" else (1, 0.3)  # a cross is two bars
        for across, along in {widths, widths[::-1]}:
            dx, dy = across * radius, along * radius
            pen.rectangle((x - dx, y - dy, x + dx, y + dy), fill=colour)
    return picture


def film(scene: Scene, path: Path) -> None:
    """Write the scene as an H.264 mp4 of `num_frames` frames."""
    background = draw_background(scene)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FRAMES_PER_SECOND)
        stream.width = stream.height = EDGE
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1  # tiny frames: starting threads costs more than they save
        # With mbtree x264 writes another file now and then.
        stream.options = {"preset": "veryfast", "crf": "18", "x264-params": "mbtree=0"}
        for progress in np.linspace(0, 1, scene.num_frames):
            frame = av.VideoFrame.from_image(draw_frame(scene, background, progress))
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def photograph(scene: Scene, path: Path) -> None:
    """Write the scene's first moment as a PNG."""
    draw_frame(scene, draw_background(scene), 0.0).save(path)
