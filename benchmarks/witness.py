"""What one caller has been told, message by message, and what was wrong with it: images twice, missing, cut. Pure.

Judges the stream that a caller sees, resumed or not; whoever asks, and of whom, is not known here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field

from looksmith.v1 import generation_pb2 as pb


@dataclass(frozen=True)
class Goes:
    """Since when, by the caller's clock, images of a request are painted elsewhere."""

    at: float
    worker: str


@dataclass(eq=False)
class Witness:
    """One request. ``count`` images are expected, which are numbered from 0."""

    count: int
    faults: Counter[str] = field(default_factory=Counter)
    sha256: dict[int, str] = field(default_factory=dict)  # of images that are complete
    restarted: set[int] = field(default_factory=set)  # images whose first chunks were void
    accepted: int = 0  # as often as a router took the request on
    attempts: int = 1
    went_on: Goes | None = None  # since ``struck``
    _worker_of: dict[int, str] = field(default_factory=dict)
    _received: Counter[int] = field(default_factory=Counter)  # bytes of images that are not complete
    _struck: frozenset[int] = frozenset()
    _victim: str = ""

    @property
    def workers(self) -> Collection[str]:
        """Where any image was placed last."""
        return set(self._worker_of.values())

    def worker_of(self, image: int) -> str:
        """Where it was placed last; empty: nowhere yet."""
        return self._worker_of.get(image, "")

    def strike(self, victim: str) -> None:
        """A worker is lost: ``went_on`` will tell when the first of its unfinished images is painted elsewhere."""
        self._victim, self.went_on = victim, None
        self._struck = frozenset(i for i in self._unfinished() if self.worker_of(i) == victim)

    def hear(self, message: pb.GenerateResponse, at: float) -> None:
        match message.WhichOneof("event"):
            case "accepted":
                self.accepted += 1
                self._received.clear()  # whoever resumes asks anew for images of which it has a part
            case "placed":
                self._place(message.placed)
            case "step":
                self._go_on(message.step.image, at)
            case "chunk":
                self._chunk(message.chunk)
                self._go_on(message.chunk.image, at)
            case "image_restarted":
                self.restarted.add(message.image_restarted.image)
                if not self._received.pop(message.image_restarted.image, 0):
                    self.faults["restarted without a part"] += 1
            case "image_done":
                self._done(message.image_done)

    def close(self) -> None:
        """The stream has ended well: what has not come is missing."""
        self.faults["missing"] += len(self._unfinished())

    def _unfinished(self) -> Collection[int]:
        return [image for image in range(self.count) if image not in self.sha256]

    def _place(self, placed: pb.Placed) -> None:
        self.attempts = max(self.attempts, placed.attempt)
        for image in placed.images or self._unfinished():
            self._worker_of[image] = placed.worker

    def _chunk(self, chunk: pb.ImageChunk) -> None:
        if chunk.image in self.sha256:
            self.faults["duplicates"] += 1
        elif chunk.offset != self._received[chunk.image]:
            self.faults["gaps"] += 1
        self._received[chunk.image] += len(chunk.data)

    def _done(self, done: pb.ImageDone) -> None:
        if done.image in self.sha256:
            self.faults["duplicates"] += 1
        elif self._received.pop(done.image, 0) != done.size_bytes:
            self.faults["gaps"] += 1
        self.sha256[done.image] = done.sha256

    def _go_on(self, image: int, at: float) -> None:
        if image in self._struck and self.went_on is None and self.worker_of(image) != self._victim:
            self.went_on = Goes(at, self.worker_of(image))
