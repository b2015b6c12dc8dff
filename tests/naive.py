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
        median, sigma = robust_scale(v)
        # beside much larger values, a unit or a quotient that float64 cannot hold is clipped
        least = np.finfo(np.float64).tiny if good.max() - good.min() >= 2.0**-900 else 0
        q = (v - median) / max(np.longdouble(spec.softening) * sigma, least)
        x = np.arcsinh(np.clip(q, -1e300, 1e300))
    x = np.where(finite, x, 0)
    return x.astype(np.float32), n_filled, True


def flags(raw):
    """Return the flags of an image that can be scored, as words."""
    with np.errstate(over="ignore"):
        v = np.asarray(raw, np.float64)
    finite = np.isfinite(v)
    good = v[finite]
    n_high = int((good == good.max()).sum())
    words = set()
    if not finite.all():
        words.add("nonfinite")
    if finite.mean() < 0.5:
        words.add("mostly_missing")
    if n_high >= 8 and n_high / good.size >= 0.001:
        words.add("saturated")
    return words


def finite_range(raw_P):
    """Return the count, the least and the greatest of the finite pixels."""
    finite = [float(v) for v in raw_P if np.isfinite(v)]
    return len(finite), min(finite, default=np.inf), max(finite, default=-np.inf)


def middle(values_P):
    """Return the two values in the middle of the sorted ones; the same one twice if it is odd."""
    ordered = sorted(float(v) for v in values_P)
    return [ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2]]


def robust_scale(raw_P):
    """Return the median and sigma of the finite pixels."""
    v = raw_P[np.isfinite(raw_P)].astype(np.longdouble)
    median = np.median(v)
    deviation = np.abs(v - median)
    sigma = np.longdouble("1.482602218505602") * np.median(deviation)
    if sigma == 0:
        sigma = np.longdouble("1.2533141373155001") * deviation.mean()
    return median, sigma


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


# ---------------------------------------------------------------- training.simulate.shooting


def line_deflection(x, y, line):
    """conj(α) = θ_E²/L e^{-iφ} ln((z - z1) / (z - z2)): 1/(z - t) integrated along the line."""
    x1, y1, x2, y2, theta2 = line
    z, z1, z2 = x + 1j * y, x1 + 1j * y1, x2 + 1j * y2
    length = abs(z2 - z1)
    return np.conj(theta2 / length * np.conj((z2 - z1) / length) * np.log((z - z1) / (z - z2)))


def trace(lens, points_P3, line, source, index, side, *, pixel, subpixels):
    """Shoot every ray as a complex number; average the Sérsic profile over each pixel."""
    rays = side * subpixels
    at = (np.arange(rays) - (rays - 1) / 2) * pixel / subpixels
    x, y = np.meshgrid(at, at)
    z = x + 1j * y
    theta, gamma1, gamma2 = lens
    beta = z - theta * z / np.abs(z) - (gamma1 + 1j * gamma2) * np.conj(z)
    for px, py, theta2 in points_P3:
        beta -= theta2 / np.conj(z - (px + 1j * py))
    if line[4] > 0:
        beta -= line_deflection(x, y, line)
    sx, sy, radius, e1, e2 = source
    beta -= sx + 1j * sy
    e = np.hypot(e1, e2)
    q = (1 - e) / (1 + e)
    along = beta * np.exp(-0.5j * np.arctan2(e2, e1))
    r = np.maximum(np.hypot(along.real * np.sqrt(q), along.imag / np.sqrt(q)), 1e-5)
    value = np.exp(-(1.9992 * index - 0.3271) * ((r / radius) ** (1 / index) - 1))
    return value.reshape(side, subpixels, side, subpixels).mean(axis=(1, 3))


# ---------------------------------------------------------------- training.metrics


def roc_auc(is_class_N, score_N):
    """Return the share of (class, rest) pairs in the right order, a tie counting one half."""
    inside, outside = score_N[is_class_N], score_N[~is_class_N]
    wins = sum(float(a > b) + 0.5 * float(a == b) for a in inside for b in outside)
    return wins / (len(inside) * len(outside))


def best_tpr(is_class_N, score_N, false_positives):
    """Return the highest TPR of all thresholds that let through at most so many of the rest."""
    best = 0.0
    for threshold in [np.inf, *score_N]:
        chosen_N = score_N >= threshold
        if (chosen_N & ~is_class_N).sum() <= false_positives:
            best = max(best, (chosen_N & is_class_N).sum() / is_class_N.sum())
    return best


def best_purity(is_class_N, score_N, completeness):
    """Return the highest purity of all thresholds that keep at least so much of the class."""
    best = 0.0
    for threshold in score_N:
        chosen_N = score_N >= threshold
        if (chosen_N & is_class_N).sum() >= completeness * is_class_N.sum():
            best = max(best, (chosen_N & is_class_N).sum() / chosen_N.sum())
    return best


# ---------------------------------------------------------------- training.simclr, lars


def nt_xent(z_ND, temperature):
    """Chen et al. 2020, algorithm 1: rows k and k + N/2 are a pair; float64."""
    count = len(z_ND)
    half = count // 2

    def similarity(i, j):
        norms = np.sqrt(np.sum(z_ND[i] ** 2)) * np.sqrt(np.sum(z_ND[j] ** 2))
        return np.sum(z_ND[i] * z_ND[j]) / norms

    def loss(i, j):
        others = [np.exp(similarity(i, k) / temperature) for k in range(count) if k != i]
        return -np.log(np.exp(similarity(i, j) / temperature) / np.sum(others))

    return sum(loss(k, k + half) + loss(k + half, k) for k in range(half)) / count


def lars_gradient(w, g, trust_coefficient, weight_decay, eps):
    """Return what LARS makes of a gradient; as it is where either norm is 0."""
    w_norm, g_norm = np.sqrt(np.sum(w**2)), np.sqrt(np.sum(g**2))
    if w_norm == 0 or g_norm == 0:
        return g
    return g * trust_coefficient * w_norm / (g_norm + weight_decay * w_norm + eps)


# ---------------------------------------------------------------- training.models


def square_root_bands(x_HW, crop=120, radius=6, sigma=2.5):
    """Square root of the centre, and that minus its Gaussian blur with repeated edge pixels."""
    keep = min(len(x_HW), crop)
    start = (len(x_HW) - keep) // 2
    centre = x_HW[start : start + keep, start : start + keep].astype(np.float64)
    root = np.sqrt(np.maximum(centre, 0) + 0.01)
    steps = range(-radius, radius + 1)
    weight = {i: np.exp(-0.5 * (i / sigma) ** 2) for i in steps}
    total = sum(weight.values()) ** 2
    padded = np.pad(root, radius, mode="edge")
    blurred = sum(
        weight[i] * weight[j] / total * padded[radius + i :, radius + j :][:keep, :keep]
        for i in steps
        for j in steps
    )
    return np.stack([(root - 0.2) * 4, (root - blurred) * 25])
