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


# ---------------------------------------------------------------- training.simulate.hst_*


def hst_binned(light_HW, factor):
    """Sum factor × factor blocks."""
    height, width = (side // factor for side in light_HW.shape)
    return light_HW.reshape(height, factor, width, factor).sum((1, 3))


def hst_convolve_at(light_HW, kernel_HW, row, col):
    """Return one pixel of `light_HW` seen through the kernel: the sum over all that reach it."""
    half = kernel_HW.shape[0] // 2
    padded = np.pad(light_HW.astype(np.float64), half)
    around = padded[row : row + 2 * half + 1, col : col + 2 * half + 1]
    return float((around * kernel_HW[::-1, ::-1]).sum())
