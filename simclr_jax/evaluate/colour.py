"""How far colour alone goes: the shortcut that crops without colour distortion leave open (SimCLR, section 3.2)."""

import numpy as np

BINS = 8  # of each channel


def histograms(images: np.ndarray) -> np.ndarray:
    """Returns each channel's shares of pixels in bins, float64 [n, 3 × BINS], of images [n, H, W, 3] in [0, 1]."""
    n = len(images)
    bins = np.minimum((np.asarray(images) * BINS).astype(int), BINS - 1)
    counts = [(bins == b).mean(axis=(1, 2)) for b in range(BINS)]
    return np.stack(counts, 2).reshape(n, -1)


def matching_top1(first: np.ndarray, second: np.ndarray) -> float:
    """Returns the share of first views whose nearest second view, by colour histogram, is that of the same image.

    Args:
      first, second: views [n, H, W, 3] in [0, 1] of the same n images.
    """
    distances = np.abs(histograms(first)[:, None] - histograms(second)).sum(2)
    return float((distances.argmin(1) == np.arange(len(distances))).mean())


def explained(train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray]) -> float:
    """Returns R² of the mean colours that a linear regression reads from features, over all channels; 1 is all of it.

    Args:
      train, test: features [n, d] and the mean colours [n, 3] of their images.
    """
    from sklearn.linear_model import Ridge

    mean, scale = train[0].mean(0), train[0].std(0) + 1e-6
    model = Ridge(alpha=1.0).fit((train[0] - mean) / scale, train[1])
    return float(model.score((test[0] - mean) / scale, test[1]))
