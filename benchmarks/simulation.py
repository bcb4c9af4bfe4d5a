"""`sim_realtime_factor`: simulated seconds a second, without images. `render_ms`: three cameras at the size that the graph uses."""

from __future__ import annotations

import time

from timing import emit, times_ms

from bora_bringup.summary import percentiles
from bora_sim.world import CAMERAS, SimWorld

SECONDS = 5.0  # simulated


def main() -> None:
    world = SimWorld('press_button', 0)
    target = world.targets
    begin = time.perf_counter()
    for _ in range(round(SECONDS * 100)):
        world.step_physics(target)
    factor = SECONDS / (time.perf_counter() - begin)
    renders = times_ms(lambda: world.render(160, 120, CAMERAS), 50)
    emit({'sim_realtime_factor': round(factor, 1), 'render_ms': percentiles(renders)})


if __name__ == '__main__':
    main()
