"""Has an engine paint once before it serves. Knows of engines what their protocol says."""

from __future__ import annotations

from services.gpu_worker.engine.protocol import Engine, EngineJob, ImageTask, JobFailed

_NAME = "warm-up"


def warm_up(engine: Engine) -> None:
    """Paints a picture of each recipe, in its first size and fewest steps, so that the first job finds all warm.

    Raises:
        Exception: whatever a picture failed of.
    """
    for facts in engine.recipes:
        width, height = facts.sizes[0]
        task = (ImageTask(0, 0),)
        engine.start(EngineJob(_NAME, "", facts.name, "a", "", (), task, width, height, min(facts.steps), 0.0))
        while events := engine.tick():
            for event in events:
                if isinstance(event, JobFailed):
                    raise event.error
