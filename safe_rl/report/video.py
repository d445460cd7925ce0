"""A film of evaluation episodes: H.264 in MP4, which every browser plays, small enough to live inside the page."""

from __future__ import annotations

import base64
import subprocess
from collections.abc import Generator
from pathlib import Path
from types import TracebackType

import imageio_ffmpeg
import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from safe_rl.errors import UserError
from safe_rl.report.style import OUTCOME_COLORS, RECOVERY_COLOR, TASK_COLOR
from safe_rl.report.trajectories import Frame
from safe_rl.switch import Mode

FRAMES_PER_SEC = 15
HOLD_FRAMES = 12
"""How long the last picture of an episode stands."""
MIN_WIDTH, MAX_WIDTH = 360, 832
_SEEN_MARGIN = 16
_BAR, _TEXT, _FAINT, _SEEN_INK = "#10151F", "#FFFFFF", "#9AA5B8", "#343A46"
_MODE_LABELS = {
    Mode.TASK: ("task policy", TASK_COLOR),
    Mode.RECOVERY: ("RECOVERY", RECOVERY_COLOR),
    Mode.STOP: ("STOP", "#E63946"),
}


class VideoWriter:
    """Takes frames, adds a caption, and encodes; used as a context manager."""

    def __init__(self, path: Path, *, max_frames: int = 900, frames_per_sec: float = FRAMES_PER_SEC) -> None:
        """Prepares ``path``, an ``.mp4``; frames beyond ``max_frames`` are left out."""
        self.path = path
        self.max_frames = max_frames
        self.frames_per_sec = frames_per_sec
        self.num_frames = 0
        self._encoder: Generator[None, bytes, None] | None = None
        self._size = (0, 0)

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._encoder is not None:
            self._encoder.close()

    def add(self, frame: Frame) -> None:
        """Encodes a frame; the last one of an episode is held for a moment."""
        picture = caption(frame)
        if self._encoder is None:
            self._size = (picture.shape[1], picture.shape[0])
            self._encoder = _start(self.path, self._size, self.frames_per_sec)
        for _ in range(1 + HOLD_FRAMES * (frame.outcome is not None)):
            if self.num_frames < self.max_frames:
                self._encoder.send(np.ascontiguousarray(picture).tobytes())
                self.num_frames += 1


def _start(path: Path, size: tuple[int, int], frames_per_sec: float) -> Generator[None, bytes, None]:
    encoder: Generator[None, bytes, None] = imageio_ffmpeg.write_frames(
        str(path),
        size,
        fps=frames_per_sec,
        codec="libx264",
        macro_block_size=2,
        quality=None,
        ffmpeg_log_level="error",
        output_params=["-crf", "24", "-preset", "medium", "-movflags", "+faststart", "-threads", "2"],
    )
    encoder.send(None)  # type: ignore[arg-type]
    return encoder


def caption(frame: Frame) -> npt.NDArray[np.uint8]:
    """Says who acts, at what risk, and in the end how the episode ended.

    That takes a bar below the picture; where the environment has drawn who acts itself, the end of the episode alone is
    written into a corner.

    Returns:
        (height, width, 3) with an even height and width, as H.264 wants.
    """
    picture = Image.fromarray(frame.image)
    if frame.observation is not None:
        picture = _beside(picture, frame.observation)
    wanted = min(max(picture.width, MIN_WIDTH), MAX_WIDTH)
    if picture.width != wanted:
        resampling = Image.Resampling.LANCZOS if picture.width > wanted else Image.Resampling.NEAREST
        picture = picture.resize((wanted, round(picture.height * wanted / picture.width)), resampling)
    line = max(30, wanted // 14)
    bar = 0 if frame.has_overlay else line
    canvas = Image.new("RGB", (wanted // 2 * 2, (picture.height + bar) // 2 * 2), _BAR)
    canvas.paste(picture, (0, 0))
    draw = ImageDraw.Draw(canvas)
    margin = max(8, line // 3)
    middle = margin + line // 2 if frame.has_overlay else (picture.height + canvas.height) // 2
    font, strong = _font(line * 0.42), _font(line * 0.42, bold=True)
    if not frame.has_overlay:
        right = f"episode {frame.episode + 1} · step {frame.step}"
        draw.text((canvas.width - margin, middle), right, font=font, fill=_FAINT, anchor="rm")
    if frame.outcome is not None:
        _chip(draw, margin, middle, frame.outcome, OUTCOME_COLORS[frame.outcome], _TEXT, strong)
    elif not frame.has_overlay:
        text, color = ("script", _FAINT) if frame.mode is None else _MODE_LABELS[frame.mode]
        end = _chip(draw, margin, middle, text, color, _BAR, strong)
        if np.isfinite(frame.risk):
            draw.text((end + margin, middle), f"risk {frame.risk:.2f}", font=font, fill=_TEXT, anchor="lm")
    return np.asarray(canvas)


def _beside(picture: Image.Image, seen: npt.NDArray[np.uint8]) -> Image.Image:
    """Puts what the policy sees to the right of a picture, its pixels enlarged."""
    height, width = seen.shape[:2]
    factor = max(1, round(0.75 * picture.height) // height)
    size = (width * factor, height * factor)
    canvas = Image.new("RGB", (picture.width + size[0] + 2 * _SEEN_MARGIN, picture.height), _TEXT)
    canvas.paste(picture, (0, 0))
    left, top = picture.width + _SEEN_MARGIN, _SEEN_MARGIN
    canvas.paste(Image.fromarray(np.ascontiguousarray(seen)).resize(size, Image.Resampling.NEAREST), (left, top))
    note = f"what the policy sees: {width} x {height}"
    ImageDraw.Draw(canvas).text((left, top + size[1] + 8), note, font=_font(13), fill=_SEEN_INK)
    return canvas


def _chip(
    draw: ImageDraw.ImageDraw, left: int, middle: int, text: str, fill: str, ink: str, font: ImageFont.FreeTypeFont
) -> int:
    """Draws a label with a coloured ground; returns where it ends."""
    padding = round(font.size * 0.5)
    end = left + round(draw.textlength(text, font=font)) + 2 * padding
    half = round(font.size * 0.8)
    draw.rounded_rectangle((left, middle - half, end, middle + half), radius=half // 2, fill=fill)
    draw.text((left + padding, middle), text, font=font, fill=ink, anchor="lm")
    return end


def _font(size: float, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(mpl.get_data_path()) / "fonts" / "ttf" / name), max(9, round(size)))


def to_data_uri(path: Path, max_bytes: int) -> str:
    """Turns a video into a data URI, encoded again more coarsely while it is larger than ``max_bytes``.

    Raises:
        UserError: It stays too large.
    """
    for quality in ("", "30", "36", "42", "48"):
        smaller = path
        if quality:
            smaller = path.with_name(f"{path.stem}-{quality}.mp4")
            _encode_again(path, smaller, quality)
        if smaller.stat().st_size <= max_bytes:
            return "data:video/mp4;base64," + base64.b64encode(smaller.read_bytes()).decode("ascii")
    raise UserError(f"the video does not fit into {max_bytes / 1e6:.1f} MB: film fewer episodes with --video-episodes")


def _encode_again(source: Path, target: Path, quality: str) -> None:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-v", "error", "-i", str(source), "-c:v", "libx264"]
    command += ["-pix_fmt", "yuv420p", "-crf", quality, "-preset", "medium", "-movflags", "+faststart", str(target)]
    subprocess.run(command, check=True)  # noqa: S603 (our own command on our own files)
