"""What each kernel means, written to be obviously right rather than fast."""

import numpy as np

# ---------------------------------------------------------------- engine.kernels


def prepare(raw, spec):
    """Return (x_HW, n_filled, scored) for a real-valued image already of the right size."""
    v = np.asarray(raw, np.longdouble).reshape(raw.shape[-2:])
    with np.errstate(over="ignore"):
        finite = np.isfinite(v.astype(np.float64))
    n_filled = int((~finite).sum())
    good = v[finite]
    if good.size == 0 or good.min() == good.max():
        return np.zeros(v.shape, np.float32), n_filled, False
    if spec.mode == "none":
        x = np.clip(v, -np.finfo(np.float32).max, np.finfo(np.float32).max)
    elif spec.mode == "minmax":
        x = (v - good.min()) / (good.max() - good.min())
    else:
        median = np.median(good)
        deviation = np.abs(good - median)
        sigma = np.longdouble("1.482602218505602") * np.median(deviation)
        if sigma == 0:
            sigma = np.longdouble("1.2533141373155001") * deviation.mean()
        x = np.arcsinh((v - median) / (np.longdouble(spec.softening) * sigma))
    x = np.where(finite, x, 0)
    return x.astype(np.float32), n_filled, True
