"""PyBullet's two renderers: "tiny", on the CPU, and "egl", by OpenGL where there is a GPU or Mesa.

``connect`` makes a client that can draw and ``capture`` takes its pictures. In flat light (``FLAT_LIGHT``) both give a
surface that faces up its very colour.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from safe_rl.errors import UserError
from sim.bullet import pybullet

Picture = npt.NDArray[np.uint8]

BULLET_RENDERERS = ("tiny", "egl")

_PLUGIN = "eglRenderer"
_PROBE = f"""
import importlib.util, pybullet
client = pybullet.connect(pybullet.DIRECT)
plugin = pybullet.loadPlugin(importlib.util.find_spec("{_PLUGIN}").origin, "_eglRendererPlugin", client)
pybullet.getCameraImage(8, 8, renderer=pybullet.ER_BULLET_HARDWARE_OPENGL, physicsClientId=client)
raise SystemExit(0 if plugin >= 0 else 3)
"""
_PROBE_SEC = 60.0

_egl_client: tuple[int, int] | None = None
"""Process and client that use the plugin: it draws in the newest client of a process alone."""


@dataclass(frozen=True)
class Light:
    """How a scene is lit. The OpenGL renderer knows the direction alone; with the light overhead it agrees on floors.

    Attributes:
        direction: Towards the light.
        ambient: Share that reaches every surface.
        diffuse: Share that depends on how a surface faces the light.
        shadow: Whether things throw shadows.
    """

    direction: tuple[float, float, float] = (0.0, 0.0, 1.0)
    ambient: float = 1.0
    diffuse: float = 0.0
    shadow: bool = False


FLAT_LIGHT = Light()
"""Each surface in its very colour."""


def connect(renderer: str = "tiny") -> int:
    """Returns a new PyBullet client that ``renderer`` can draw; bodies are added after that, not before.

    Raises:
        UserError: The machine cannot offer the renderer (the line says what brings it), another client of this process
            uses the OpenGL renderer, or there is no client left.
    """
    if renderer not in BULLET_RENDERERS:
        raise UserError(f"unknown renderer {renderer!r}: use one of {', '.join(BULLET_RENDERERS)}")
    if renderer == "egl":
        _check_egl()
    client = int(pybullet.connect(pybullet.DIRECT))
    if client < 0:
        raise UserError("PyBullet has no physics client left: close environments that are no longer needed")
    if renderer == "egl":
        _load_plugin(client)
    return client


def disconnect(client: int) -> None:
    """Frees a client of ``connect``; one that is gone is fine."""
    global _egl_client
    if not pybullet.isConnected(client):
        return
    if _egl_client == (os.getpid(), client):
        _egl_client = None
        with quiet_output():
            pybullet.disconnect(client)
    else:
        pybullet.disconnect(client)


def capture(
    client: int,
    renderer: str,
    size: tuple[int, int],
    view_matrix: Sequence[float],
    projection_matrix: Sequence[float],
    *,
    light: Light = FLAT_LIGHT,
    smoothing: int = 1,
) -> Picture:
    """Takes a picture.

    Args:
        client: Of ``connect`` with the same renderer.
        renderer: ``"tiny"`` or ``"egl"``.
        size: Width and height in pixels.
        view_matrix: OpenGL's, 16 numbers column by column.
        projection_matrix: Likewise.
        light: How the scene is lit.
        smoothing: The picture is drawn this many times larger and averaged down.

    Returns:
        (height, width, 3) uint8 RGB.
    """
    width, height = size[0] * smoothing, size[1] * smoothing
    if renderer == "tiny":
        projection_matrix = _centred(projection_matrix, width, height)
    *_, pixels, _, _ = pybullet.getCameraImage(
        width,
        height,
        view_matrix,
        projection_matrix,
        lightDirection=light.direction,
        shadow=int(light.shadow),
        lightAmbientCoeff=light.ambient,
        lightDiffuseCoeff=light.diffuse,
        lightSpecularCoeff=0.0,
        renderer=pybullet.ER_BULLET_HARDWARE_OPENGL if renderer == "egl" else pybullet.ER_TINY_RENDERER,
        flags=pybullet.ER_NO_SEGMENTATION_MASK,
        physicsClientId=client,
    )
    picture = np.asarray(pixels, np.uint8).reshape(height, width, 4)[:, :, :3]
    if smoothing == 1:
        return np.ascontiguousarray(picture)
    smooth: Picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
    return smooth


def _centred(projection_matrix: Sequence[float], width: int, height: int) -> list[float]:
    """Moves a picture by half a pixel, left and down: TinyRenderer samples at the corners of pixels."""
    matrix = list(projection_matrix)
    for column in range(0, 16, 4):
        matrix[column] -= matrix[column + 3] / width
        matrix[column + 1] -= matrix[column + 3] / height
    return matrix


@contextlib.contextmanager
def quiet_output() -> Iterator[None]:
    """Keeps what C code writes to standard output and error meanwhile to itself: the plugin tells of its driver."""
    libc = ctypes.CDLL(None)
    sys.stdout.flush()
    sys.stderr.flush()
    libc.fflush(None)
    kept = {}
    for number in (1, 2):
        with contextlib.suppress(OSError):  # closed: nothing to keep clean
            kept[number] = os.dup(number)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        for number in kept:
            os.dup2(nowhere, number)
        yield
    finally:
        libc.fflush(None)
        for number, copy in kept.items():
            os.dup2(copy, number)
            os.close(copy)
        os.close(nowhere)


def _load_plugin(client: int) -> None:
    global _egl_client
    if _egl_client is not None and _egl_client[0] == os.getpid():
        pybullet.disconnect(client)
        raise UserError(
            "renderer 'egl' draws one environment a process: close the other one, step several in processes of their "
            "own (AsyncVectorEnv, workers), or use renderer 'tiny'"
        )
    with quiet_output():
        plugin = pybullet.loadPlugin(_plugin_path(), "_eglRendererPlugin", physicsClientId=client)
        if plugin >= 0:
            for _ in range(2):  # it speaks with its first two pictures
                pybullet.getCameraImage(8, 8, renderer=pybullet.ER_BULLET_HARDWARE_OPENGL, physicsClientId=client)
    if plugin < 0:
        pybullet.disconnect(client)
        raise UserError("renderer 'egl' did not load although it was found: use renderer 'tiny'")
    _egl_client = (os.getpid(), client)


def _plugin_path() -> str:
    spec = importlib.util.find_spec(_PLUGIN)
    if spec is None or spec.origin is None:
        raise UserError(
            "renderer 'egl' needs PyBullet's module eglRenderer, which its wheels for Linux bring: pip install "
            "--force-reinstall pybullet, or use renderer 'tiny'"
        )
    return spec.origin


@functools.cache
def _check_egl() -> None:
    """Raises ``UserError`` unless the plugin draws on this machine.

    A process of its own finds out: where there is no driver the plugin ends the process that loads it.
    """
    _plugin_path()
    try:
        ctypes.CDLL("libEGL.so.1")
    except OSError as error:
        raise UserError(
            "renderer 'egl' needs libEGL.so.1: apt-get install libegl1 libgl1-mesa-dri (Mesa, on the CPU) or the GPU's "
            "driver, or use renderer 'tiny'"
        ) from error
    try:
        code = subprocess.run(  # noqa: S603 - our own words
            [sys.executable, "-c", _PROBE], capture_output=True, timeout=_PROBE_SEC, check=False
        ).returncode
    except subprocess.TimeoutExpired:
        code = -1
    if code != 0:
        raise UserError(
            "renderer 'egl' finds no OpenGL driver that works: apt-get install libegl-mesa0 libgl1-mesa-dri (Mesa, on "
            "the CPU) or the GPU's driver, or use renderer 'tiny'"
        )
