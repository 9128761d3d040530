"""Has an engine paint once before it serves. Knows of engines what their protocol says."""

from __future__ import annotations

from services.gpu_worker.engine.protocol import Engine, EngineJob, ImageTask, JobFailed

_NAME = "warm-up"
#: Pixels; each level of a UNet halves the latents, which are an eighth of a picture.
_SMALL = 64


def warm_up(engine: Engine) -> None:
    """Paints a picture of each recipe, in its fewest steps, so that the first job finds all warm.

    It has the recipe's first size, for which a GPU chooses its kernels. A CPU has nothing to choose, and takes minutes
    for a picture of 1024 pixels: there it is a small one.

    Raises:
        Exception: whatever a picture failed of.
    """
    for facts in engine.recipes:
        width, height = (_SMALL, _SMALL) if engine.device == "cpu" else facts.sizes[0]
        task = (ImageTask(0, 0),)
        engine.start(EngineJob(_NAME, "", facts.name, "a", "", (), task, width, height, min(facts.steps), 0.0))
        while events := engine.tick():
            for event in events:
                if isinstance(event, JobFailed):
                    raise event.error
