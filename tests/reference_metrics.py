"""The metrics once more, slowly: NumPy loops in float64, from the formulas, with covariances and pseudo-inverses.

Shares no code with `nclib.metrics`. Labels are multi-hot (n, k).
"""

import itertools
import math

import numpy as np
import scipy.optimize


def simplex(k):
    return (np.eye(k) - np.ones((k, k)) / k) / math.sqrt(k - 1)


def single_rows(labels, k):
    return [i for i in range(len(labels)) if labels[i].sum() == 1 and labels[i, k] == 1]


def means_of_classes(features, labels):
    return np.stack([features[single_rows(labels, k)].mean(axis=0) for k in range(labels.shape[1])])


def means_of_sets(features, labels, m):
    """Label set -> (mean, count) of the sets with m labels."""
    groups = {}
    for i in range(len(labels)):
        if labels[i].sum() == m:
            groups.setdefault(tuple(np.flatnonzero(labels[i])), []).append(features[i])
    return {s: (np.mean(rows, axis=0), len(rows)) for s, rows in groups.items()}


def variability(features, labels, global_mean):
    means = means_of_classes(features, labels)
    k, d = means.shape
    within, between, n = np.zeros((d, d)), np.zeros((d, d)), 0
    for j in range(k):
        for i in single_rows(labels, j):
            within += np.outer(features[i] - means[j], features[i] - means[j])
            n += 1
        between += np.outer(means[j] - global_mean, means[j] - global_mean) / k
    return within / n, between


def angle(a, b):
    u, v = a / np.linalg.norm(a), b / np.linalg.norm(b)
    return math.degrees(2 * math.atan2(np.linalg.norm(u - v), np.linalg.norm(u + v)))


def distance(gram):
    return np.linalg.norm(gram / np.linalg.norm(gram) - simplex(len(gram)))


def norm_spread(rows):
    norms = [np.linalg.norm(row) for row in rows]
    return np.std(norms) / np.mean(norms)


def angle_spread(rows):
    k = len(rows)
    values = []
    for i, j in itertools.combinations(range(k), 2):
        cosine = rows[i] @ rows[j] / np.linalg.norm(rows[i]) / np.linalg.norm(rows[j])
        values.append(abs(cosine + 1 / (k - 1)))
    return np.mean(values)


def cdnv(features, labels):
    means = means_of_classes(features, labels)
    variances = []
    for k in range(len(means)):
        variances.append(np.mean([np.sum((features[i] - means[k]) ** 2) for i in single_rows(labels, k)]))
    pairs = itertools.combinations(range(len(means)), 2)
    return np.mean([(variances[k] + variances[j]) / (2 * np.sum((means[k] - means[j]) ** 2)) for k, j in pairs])


def nuclear_over_frobenius(features, labels):
    ratios = []
    for k in range(labels.shape[1]):
        values = np.linalg.svd(features[single_rows(labels, k)], compute_uv=False)
        ratios.append(values.sum() / math.sqrt((values**2).sum()))
    return np.mean(ratios)


def uniformity(rows):
    """Variance and mean of log(1/distance), and variance of the distance, over the pairs of unit rows."""
    unit = [row / np.linalg.norm(row) for row in rows]
    distances = [np.linalg.norm(u - v) for u, v in itertools.combinations(unit, 2)]
    logs = [math.log(1 / x) for x in distances]
    return {"": np.var(logs), "_mean": np.mean(logs), "_distance": np.var(distances)}


def one_vs_rest(weight):
    """Distance of each unit row to the convex hull of the others, by a general solver."""
    unit = weight / np.linalg.norm(weight, axis=1, keepdims=True)
    distances = []
    for k in range(len(unit)):
        rest = np.delete(unit, k, axis=0)
        start = np.full(len(rest), 1 / len(rest))
        found = scipy.optimize.minimize(
            lambda a, rest=rest, k=k: np.sum((a @ rest - unit[k]) ** 2),
            start,
            jac=lambda a, rest=rest, k=k: 2 * rest @ (a @ rest - unit[k]),
            bounds=[(0, None)] * len(rest),
            constraints={"type": "eq", "fun": lambda a: a.sum() - 1},
            options={"ftol": 1e-15, "maxiter": 1000},
        )
        distances.append(math.sqrt(found.fun))
    return min(distances)


def separation(features, labels):
    """`tr(SS_W SS_B^+)`."""
    means, d = means_of_classes(features, labels), features.shape[1]
    rows = [single_rows(labels, k) for k in range(len(means))]
    center = np.concatenate([features[r] for r in rows]).mean(axis=0)
    within = sum(np.outer(features[i] - means[k], features[i] - means[k]) for k in range(len(means)) for i in rows[k])
    between = sum(len(rows[k]) * np.outer(means[k] - center, means[k] - center) for k in range(len(means)))
    return np.trace(within.reshape(d, d) @ np.linalg.pinv(between, rcond=1e-12))


def margins(features, labels, weight, bias, logits):
    center = means_of_classes(features, labels).mean(axis=0)
    wbar = weight.mean(axis=0)
    result = []
    for i in range(len(features)):
        if labels[i].sum() != 1:
            continue
        y = int(np.flatnonzero(labels[i])[0])
        c = [
            (logits[i, j] - bias[j]) / np.linalg.norm(features[i] - center) / np.linalg.norm(weight[j] - wbar)
            for j in range(len(weight))
        ]
        result.append(c[y] - max(c[j] for j in range(len(c)) if j != y))
    return np.array(result)


def tag_wise(features, labels, m):
    classes = means_of_classes(features, labels)
    sets = means_of_sets(features, labels, m)
    sums = {s: sum(classes[k] for k in s) for s in itertools.combinations(range(len(classes)), m)}
    matching = [angle(mean, sums[s]) for s, (mean, _) in sets.items()]
    everything = [angle(mean, other) for mean, _ in sets.values() for other in sums.values()]
    scale = sum(mean @ sums[s] for s, (mean, _) in sets.items()) / sum(sums[s] @ sums[s] for s in sets)
    error = sum(np.sum((mean - scale * sums[s]) ** 2) for s, (mean, _) in sets.items())
    counts = {count for _, count in sets.values()}
    by_count = {
        count: np.mean([angle(mean, sums[s]) for s, (mean, n) in sets.items() if n == count]) / np.mean(everything)
        for count in counts
    }
    return {
        "angle_mean": np.mean(matching),
        "angle_max": np.max(matching),
        "ratio": np.mean(matching) / np.mean(everything),
        "scale": scale,
        "residual": math.sqrt(error / sum(np.sum(mean**2) for mean, _ in sets.values())),
    }, by_count


def predictions(logits, labels):
    values = {"soft_iou": [], "jaccard": [], "subset_accuracy": [], "top1": [], "top5": []}
    for z, row in zip(logits, labels, strict=True):
        true = set(np.flatnonzero(row).tolist())
        if not true:
            continue
        p = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
        order = np.argsort(-z).tolist()
        top = set(order[: len(true)])
        values["soft_iou"].append(sum(p[k] for k in true))
        values["jaccard"].append(len(top & true) / len(top | true))
        values["subset_accuracy"].append(float(top == true))
        if len(true) == 1:
            values["top1"].append(float(true <= set(order[:1])))
            values["top5"].append(float(true <= set(order[:5])))
    return {name: np.mean(scores) for name, scores in values.items()}


def nearest_mean(features, labels, logits):
    """Share of single samples whose nearest class mean is not the argmax, and whose nearest is their own."""
    means = means_of_classes(features, labels)
    wrong, right = [], []
    for i in range(len(features)):
        if labels[i].sum() == 1:
            nearest = min(range(len(means)), key=lambda k: np.sum((features[i] - means[k]) ** 2))
            wrong.append(float(nearest != int(np.argmax(logits[i]))))
            right.append(float(labels[i, nearest] == 1))
    return np.mean(wrong), np.mean(right)


def measure(features, labels, weight, bias):
    """Every scalar that `nclib.metrics.measure` should return."""
    features, weight, bias = (np.asarray(a, dtype=np.float64) for a in (features, weight, bias))
    labels = np.asarray(labels)
    labeled = labels.sum(axis=1) > 0
    features, labels = features[labeled], labels[labeled]
    k = labels.shape[1]
    means = means_of_classes(features, labels)
    center = means.mean(axis=0)
    released_center = features[labels.sum(axis=1) == 1].sum(axis=0) / len(features)
    within, between = variability(features, labels, center)
    _, released_between = variability(features, labels, released_center)
    logits = features @ weight.T + bias
    w, h = weight - weight.mean(axis=0), means - center
    disagreement, ncc_accuracy = nearest_mean(features, labels, logits)
    products = np.array([w_k @ h_k for w_k, h_k in zip(weight, h, strict=True)])
    cosines = products / np.linalg.norm(weight, axis=1) / np.linalg.norm(h, axis=1)
    values = {
        "nc1": np.trace(within @ np.linalg.pinv(between, rcond=1e-12)) / k,
        "nc1_quotient": np.trace(within) / np.trace(between),
        "nc1_cdnv": cdnv(features, labels),
        "nc2_w": distance(weight @ weight.T),
        "nc2_h": distance(means @ means.T),
        "nc2_w_centered": distance(w @ w.T),
        "nc2_h_centered": distance(h @ h.T),
        "nc3": distance(weight @ h.T),
        "nc3_centered": distance(w @ h.T),
        "equinorm_w": norm_spread(w),
        "equinorm_h": norm_spread(h),
        "equiangle_w": angle_spread(w),
        "equiangle_h": angle_spread(h),
        "nc4": disagreement,
        "ncc_accuracy": ncc_accuracy,
        **{f"gnc2_w{name}": value for name, value in uniformity(w).items()},
        **{f"gnc2_h{name}": value for name, value in uniformity(h).items()},
        "unc3": products.var(ddof=1),
        "unc3_cosine": cosines.var(ddof=1),
        "nc3_cosine": cosines.mean(),
        "nc3_distance": np.linalg.norm(weight / np.linalg.norm(weight) - h / np.linalg.norm(h)),
        "margin_one_vs_rest": one_vs_rest(weight),
        "separation": separation(features, labels),
        "class_mean_rank": np.linalg.matrix_rank(h),
        "mean_norm": np.mean([np.linalg.norm(row) for row in h]),
        "feature_norm": np.mean([np.linalg.norm(features[i]) for j in range(k) for i in single_rows(labels, j)]),
        "bias_residual": np.linalg.norm(weight @ center + bias),
        "nuclear_over_frobenius": nuclear_over_frobenius(features, labels),
        "cosine_margin_mean": margins(features, labels, weight, bias, logits).mean(),
        "released_nc1": np.trace(within @ np.linalg.pinv(released_between, rcond=1e-12)) / k,
        "released_nc3": distance(weight @ (means - released_center).T),
        **predictions(logits, labels),
    }
    for m in sorted(set(labels.sum(axis=1).tolist()) - {0, 1}):
        scores, _ = tag_wise(features, labels, m)
        values |= {f"tag_wise_{name}_{m}": value for name, value in scores.items()}
    return values
