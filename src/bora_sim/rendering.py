"""Off-screen rendering with one OpenGL context a process, whatever the number of models."""

from __future__ import annotations

import atexit
from collections import OrderedDict

import mujoco
import numpy as np

MAX_MODELS = 8  # models whose GPU resources are kept

_context: mujoco.GLContext | None = None
_views: OrderedDict[int, _View] = OrderedDict()


class _View:
    """GPU resources and scene of one model."""

    def __init__(self, model: mujoco.MjModel):
        self.model = model  # keeps the id that names this view alive
        self.context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self.context)
        self.scene = mujoco.MjvScene(model, maxgeom=400)
        self.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0  # ten times the cost of everything else together
        self.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
        self.option = mujoco.MjvOption()
        self.option.sitegroup[:] = 0


def _view(model: mujoco.MjModel) -> _View:
    global _context
    if _context is None:
        _context = mujoco.GLContext(640, 480)
        atexit.register(close)
    _context.make_current()
    view = _views.get(id(model))
    if view is None:
        view = _views[id(model)] = _View(model)
        if len(_views) > MAX_MODELS:
            _views.popitem(last=False)[1].context.free()
    _views.move_to_end(id(model))
    return view


def render(model: mujoco.MjModel, data: mujoco.MjData, cameras: tuple[str, ...], width: int, height: int) -> list[np.ndarray]:
    """One uint8 [height,width,3] image for each named camera of the model's present state."""
    view = _view(model)
    rect = mujoco.MjrRect(0, 0, width, height)
    images = []
    for name in cameras:
        camera = mujoco.MjvCamera()
        camera.type, camera.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, model.camera(name).id
        mujoco.mjv_updateScene(model, data, view.option, None, camera, mujoco.mjtCatBit.mjCAT_ALL, view.scene)
        mujoco.mjr_render(rect, view.scene, view.context)
        image = np.empty((height, width, 3), np.uint8)
        mujoco.mjr_readPixels(image, None, rect, view.context)
        images.append(np.ascontiguousarray(image[::-1]))
    return images


def close() -> None:
    """Free every GPU resource; must happen before the interpreter tears OpenGL down."""
    global _context
    for view in _views.values():
        view.context.free()
    _views.clear()
    if _context is not None:
        _context.free()
        _context = None
