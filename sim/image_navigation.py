"""Navigation 1 and 2 from camera images: ``sim.navigation`` behind ``sim.image_env``."""

from __future__ import annotations

from typing import Any

from sim.image_env import ImageEnv
from sim.navigation import Navigation1, Navigation2


class ImageNavigation1(ImageEnv):
    """Navigation 1 from images; offline segments start where the camera sees them."""

    def __init__(self, render_mode: str | None = None, **options: Any) -> None:
        super().__init__(Navigation1(render_mode), **options)


class ImageNavigation2(ImageEnv):
    """Navigation 2 from images."""

    def __init__(self, render_mode: str | None = None, **options: Any) -> None:
        super().__init__(Navigation2(render_mode), **options)
