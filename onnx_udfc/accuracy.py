"""Top-1 of one network on labelled images."""

from __future__ import annotations

from onnx_udfc.comparison import looks_like_scores
from onnx_udfc.errors import RequestError
from onnx_udfc.feeds import image_feeds, input_specs
from onnx_udfc.labelled_images import Labelled
from onnx_udfc.sessions import Source, open_session


def top1(model: Source, labelled: Labelled, threads: int | None = None) -> float:
    """Return the share of images whose label is the argmax of the first output that looks like class scores.

    Raises:
        ModelError: The model does not load.
        RequestError: The images have no labels or do not fit, or no output is (n, classes).
    """
    images = labelled.open()
    assert images.labels is not None
    total = len(images) if labelled.limit is None else min(labelled.limit, len(images))
    session = open_session(model, "cpu", threads)
    correct = seen = 0
    for feed in image_feeds(input_specs(session), images, labelled.preprocessing, labelled.limit):
        scores = next((y for y in session.run(None, feed) if looks_like_scores(y)), None)
        if scores is None:
            raise RequestError("accuracy needs an output (n, classes); leave out the labelled images")
        answers = scores.reshape(len(scores), -1).argmax(axis=1)[: total - seen]  # a fixed batch may be filled up
        correct += int((answers == images.labels[seen : seen + len(answers)]).sum())
        seen += len(answers)
    return correct / seen
