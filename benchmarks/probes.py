"""The exact search beside FAISS's, and L-BFGS beside scikit-learn's, in turns of one run.

    python benchmarks/probes.py [--rounds=5] [--out=benchmarks/results/probes_2_cores.json]

Features are those of made images' classes: Gaussian clusters of 10 classes in 64 dimensions, projected at random to 512
with noise, and cut at 0 as a ReLU does. The last line is one JSON object. Needs faiss-cpu and scikit-learn.
"""

import argparse
import json
import os
import pathlib
import statistics
import time
from collections.abc import Callable
from typing import Any

import faiss
import jax
import numpy as np
import sklearn
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestNeighbors

from simclr_jax.evaluate import knn, lbfgs
from simclr_jax.evaluate.feature_files import Features

CLASSES, INNER = 10, 64
ROUNDING = 1e-6  # of a cosine in float32
STRENGTHS = np.geomspace(1e-6, 1e5, 45)


def features(n: int, dim: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns float32 [n, dim] and labels."""
    shared, rng = np.random.default_rng(0), np.random.default_rng(seed)
    centres, projection = 0.4 * shared.normal(size=(CLASSES, INNER)), shared.normal(size=(INNER, dim)) / 8
    labels = rng.integers(0, CLASSES, n)
    inner = centres[labels] + rng.normal(size=(n, INNER))
    return np.maximum(inner @ projection + 0.3 * rng.normal(size=(n, dim)), 0).astype(np.float32), labels


def in_turns(programs: dict[str, Callable[[], Any]], rounds: int) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Returns the seconds of each program in each round, after one that is not counted, and what each returned."""
    seconds, results = {name: [] for name in programs}, {}
    for _ in range(rounds + 1):
        for name, program in programs.items():
            start = time.perf_counter()
            results[name] = program()
            seconds[name].append(time.perf_counter() - start)
    return {name: values[1:] for name, values in seconds.items()}, results


def compared(seconds: dict[str, list[float]], ours: str, other: str) -> dict[str, Any]:
    """Returns medians and the ratio of each round's times, ours over the other's: least, median, most."""
    ratios = sorted(a / b for a, b in zip(seconds[ours], seconds[other], strict=True))
    medians = {f"{name}_seconds": statistics.median(values) for name, values in seconds.items()}
    return medians | {"ratio": [ratios[0], statistics.median(ratios), ratios[-1]]}


def search(n: int, queries: int, dim: int, k: int, rounds: int) -> dict[str, Any]:
    """The k nearest of n vectors to each query: time beside FAISS, neighbours beside scikit-learn in float64."""
    (bank, labels), (wanted, _) = features(n, dim, 1), features(queries, dim, 2)
    ours = Features((bank,), labels, np.arange(n)), Features((wanted,), np.zeros(queries, int), np.arange(queries))

    def flat():
        unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (bank, wanted)]
        index = faiss.IndexFlatIP(dim)
        index.add(unit[0])
        return index.search(unit[1], k)

    seconds, results = in_turns({"simclr_jax": lambda: knn.nearest(ours[1], ours[0], k), "faiss": flat}, rounds)
    found = compared(seconds, "simclr_jax", "faiss")
    index = NearestNeighbors(n_neighbors=k, metric="cosine", algorithm="brute").fit(bank.astype(np.float64))
    distances, rows = index.kneighbors(wanted.astype(np.float64))
    bank64, wanted64 = (x / np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True) for x in (bank, wanted))
    other = results["simclr_jax"][1] != rows
    at = np.nonzero(other)
    exact = np.einsum("nd,nd->n", wanted64[at[0]], bank64[results["simclr_jax"][1][at]])
    gaps = np.abs(exact - (1 - distances[at]))
    return found | {
        "shape": [n, queries, dim, k],
        "places": rows.size,
        "places_that_differ_from_scikit_learn": int(other.sum()),
        "largest_cosine_gap_of_those": float(gaps.max(initial=0)),
        "places_beyond_rounding": int((gaps > ROUNDING).sum()),
    }


def one_fit(n: int, dim: int, rounds: int) -> dict[str, Any]:
    """One fit at λ = 1: time and accuracy beside scikit-learn at its own tolerance, which is the same number."""
    (x, y), test = features(n, dim, 1), features(10_000, dim, 2)

    def ours():
        problem = lbfgs._Problem(x, y, CLASSES)
        problem.solve(1.0, 1000)
        return problem.solution()

    programs = {"simclr_jax": ours, "scikit_learn": lambda: LogisticRegression(C=1, max_iter=1000).fit(x, y)}
    seconds, results = in_turns(programs, rounds)
    weights, bias = results["simclr_jax"]
    top1 = [float(((test[0] @ weights + bias).argmax(1) == test[1]).mean()), results["scikit_learn"].score(*test)]
    return compared(seconds, "simclr_jax", "scikit_learn") | {"shape": [n, dim, CLASSES], "top1": top1}


def sweep(n: int, dim: int, rounds: int) -> dict[str, Any]:
    """45 strengths, the choice and the fit on both sets, beside 45 fits of scikit-learn, its choice and last fit."""
    train, validation, test = (features(m, dim, seed) for seed, m in enumerate((n, n // 5, 10_000), 1))

    def ours():
        return lbfgs.fit(train, validation, num_classes=CLASSES, l2=STRENGTHS.tolist(), iterations=1000)

    def scikit_learn():
        models = [LogisticRegression(C=1 / l2, max_iter=1000) for l2 in STRENGTHS[::-1]]
        best = max(models, key=lambda model: model.fit(*train).score(*validation))
        both = [np.concatenate(parts) for parts in zip(train, validation, strict=True)]
        return LogisticRegression(C=best.C, max_iter=1000).fit(*both)

    seconds, results = in_turns({"simclr_jax": ours, "scikit_learn": scikit_learn}, rounds)
    mine, other = results.values()
    return compared(seconds, "simclr_jax", "scikit_learn") | {
        "shape": [n, n // 5, dim, CLASSES],
        "top1": [float((mine.logits(test[0]).argmax(1) == test[1]).mean()), other.score(*test)],
        "l2": [mine.l2, 1 / other.C],
        "unfinished": mine.unfinished,
    }


def main() -> None:
    """Measures what is asked for and prints it."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--only", nargs="*", default=["knn", "fit", "sweep"], choices=["knn", "fit", "sweep"])
    flags.add_argument("--rounds", type=int, default=5)
    flags.add_argument("--images", type=int, default=50_000)
    flags.add_argument("--queries", type=int, default=10_000)
    flags.add_argument("--dim", type=int, default=512)
    flags.add_argument("--sweep_images", type=int, default=50_000)
    flags.add_argument("--sweep_rounds", type=int, default=1)
    flags.add_argument("--out", type=pathlib.Path)
    chosen = flags.parse_args()
    measures = {
        "knn": lambda: search(chosen.images, chosen.queries, chosen.dim, 200, chosen.rounds),
        "fit": lambda: one_fit(chosen.images, chosen.dim, chosen.rounds),
        "sweep": lambda: sweep(chosen.sweep_images, chosen.dim, chosen.sweep_rounds),
    }
    versions = {"jax": jax.__version__, "faiss": faiss.__version__, "scikit_learn": sklearn.__version__}
    found = {"cores": len(os.sched_getaffinity(0)), "load": os.getloadavg()[0], "versions": versions}
    for name in chosen.only:
        found[name] = measures[name]()
        print(name, json.dumps(found[name]), flush=True)
    line = json.dumps(found)
    if chosen.out:
        chosen.out.write_text(line + "\n")
    print(line)


if __name__ == "__main__":
    main()
