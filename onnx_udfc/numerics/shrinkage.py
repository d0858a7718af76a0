"""Second moments of few samples, made trustworthy.

With fewer samples n than unknowns d, every channel looks like a combination of the others, and removing it looks free.
(The classifier behind a global pooling has one sample an image.) The off-diagonal part is therefore shrunk,

    G ← (1 − ρ) G + ρ diag(G)      ρ = max(0, (2d − n) / (2d + n))

as in Ledoit and Wolf (2004), whose optimal ρ also falls with n/d; twice as many
samples as unknowns are enough to leave it as it is.
"""

from __future__ import annotations

import numpy as np

from onnx_udfc.numerics.moments import Array, Double, covariance


def shrunk_covariance(patches: Array, gram: Double | None = None) -> Double:
    """Covariance (g, d, d) of patches (g, n, d), shrunk toward its diagonal where n < 2 d.

    Args:
        patches: samples.
        gram: their covariance, where it is known; not changed.
    """
    gram = covariance(patches) if gram is None else gram.copy()
    share = shrinkage(patches.shape[1], patches.shape[2])
    if share > 0:
        diagonal = np.einsum("gii->gi", gram).copy()
        gram *= 1 - share
        np.einsum("gii->gi", gram)[...] = diagonal
    return gram


def shrinkage(samples: int, unknowns: int) -> float:
    """ρ of the module's equation."""
    return max(0.0, (2 * unknowns - samples) / (2 * unknowns + samples))
