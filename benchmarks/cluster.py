"""k-means, the nearest centroid and the encoding of instructions, each against what it replaces.

The points are made up: 300 topics of very different sizes in 384 dimensions, broad enough to overlap. The sentences are
those of this project's documentation.

    python -m benchmarks.cluster
    python -m benchmarks.cluster --points 200000 --only kmeans
    python -m benchmarks.cluster --mapped 10000000 --folder /tmp --only mapped
"""

from __future__ import annotations

import argparse
import re
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks.harness import in_turn, machine, table
from llava_mocle.clustering import ClusterModel, SentenceEncoder, kmeans, token_batches
from llava_mocle.clustering.nearest import nearest_exact, nearest_with_margin
from llava_mocle.errors import AssetError

_DIM, _CHUNK = 384, 65536
PARTS = ("kmeans", "nearest", "encoding", "mapped")


def make_points(number: int, file: Path | None = None, seed: int = 0) -> np.ndarray:
    """(N, 384) float32 of unit norm; in a memory-mapped file, if one is named."""
    generator = np.random.default_rng(seed)
    domains = generator.standard_normal((12, _DIM))
    topics = 0.8 * domains[generator.integers(12, size=300)] + 0.7 * generator.standard_normal((300, _DIM))
    sizes = 1 / np.arange(1, 301) ** 0.7
    shape = (number, _DIM)
    points = np.empty(shape, np.float32) if file is None else np.lib.format.open_memmap(file, "w+", np.float32, shape)
    for start in range(0, number, _CHUNK):
        rows = min(_CHUNK, number - start)
        chosen = topics[generator.choice(300, size=rows, p=sizes / sizes.sum())].astype(np.float32)
        spread = 0.55 + 0.5 * generator.random((rows, 1), dtype=np.float32)
        chosen += spread * generator.standard_normal((rows, _DIM), dtype=np.float32)
        points[start : start + rows] = chosen / np.linalg.norm(chosen, axis=1, keepdims=True)
    return points


def traced_mib(way: Callable[[], object]) -> float:
    """MiB of Python's and NumPy's own memory that the way needs at its peak. Mapped files do not count."""
    tracemalloc.start()
    way()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 2**20


def compare_kmeans(number: int, num_clusters: int, rounds: int, starts: int) -> None:
    from sklearn.cluster import KMeans

    points, inertia = make_points(number), {}

    def theirs() -> None:
        fitted = KMeans(num_clusters, n_init=1, random_state=0, algorithm="lloyd").fit(points)
        inertia[one] = float(fitted.inertia_)

    def ours() -> None:
        inertia[best] = kmeans.fit(points, num_clusters, n_init=starts).inertia

    one, best = "scikit-learn's Lloyd, float32, one start", f"best of {starts} on a sample, run on over all points"
    timings = in_turn({one: theirs, best: ours}, rounds, warm_up=0)
    memory = {one: f"{traced_mib(theirs):.0f}", best: f"{traced_mib(ours):.0f}"}
    over = {name: f"{value:,.1f} ({value / inertia[one]:.5f})" for name, value in inertia.items()}
    print(f"\nk-means, {number:,} x {_DIM}, K {num_clusters}\n")
    print(table(timings, [one], {"inertia (over the first)": over, "MiB above the input": memory}))


def compare_nearest(number: int, num_clusters: int, rounds: int) -> None:
    points = make_points(number)
    centroids = kmeans.fit(points[:20000], num_clusters, n_init=1).centroids.astype(np.float32)
    wide = points.astype(np.float64)
    ways = {
        "float64": lambda: nearest_with_margin(wide, centroids),
        "float32, float64 where it is close": lambda: nearest_with_margin(points, centroids),
    }
    differ = int((ways["float64"]()[0] != ways["float32, float64 where it is close"]()[0]).sum())
    print(f"\nNearest of {num_clusters} centroids, {number:,} points; {differ} ids differ\n")
    print(table(in_turn(ways, rounds), ["float64"]))


def sentences(number: int) -> list[str]:
    """Distinct sentences of the documentation."""
    texts = " ".join(path.read_text(encoding="utf-8") for path in sorted(Path("docs").glob("*.md")))
    found = re.split(r"(?<=[.?!:|])\s+", re.sub(r"\s+", " ", texts))
    return list(dict.fromkeys(text for text in found if 15 < len(text) < 400))[:number]


def compare_encoding(number: int, rounds: int) -> None:
    from sentence_transformers import SentenceTransformer

    try:
        encoder = SentenceEncoder(device="cpu")
    except AssetError as error:
        print(f"\nencoding was not measured: {str(error).splitlines()[0]}")
        return
    texts = sentences(number)
    model = SentenceTransformer(str(encoder.folder), device="cpu", local_files_only=True).eval()
    longest_first = sorted(texts, key=len, reverse=True)
    default = "sentence-transformers' encode"
    ways: dict[str, Callable[[], object]] = {
        default: lambda: model.encode(texts, normalize_embeddings=True, show_progress_bar=False),
        "batches of tokens, float32": lambda: token_batches.embed_many(model, longest_first),
    }
    if token_batches.computes_bf16("cpu"):
        half = SentenceTransformer(str(encoder.folder), device="cpu", local_files_only=True).eval().bfloat16()
        ways["batches of tokens, bf16"] = lambda: token_batches.embed_many(half, longest_first)
    print(f"\nEncoding {len(texts):,} distinct sentences\n")
    print(table(in_turn(ways, rounds), [default]))
    if "batches of tokens, bf16" not in ways:
        print("\nbf16 was not measured: this CPU has no arithmetic for it")
    embeddings = encoder.encode(texts, progress=False)
    clusters = ClusterModel.from_centroids(kmeans.fit(embeddings, 16, n_init=2).centroids, encoder=encoder)
    exact = nearest_exact(encoder.encode(texts, progress=False, exact=True), clusters.centroids)[0]
    print(f"\n{int((clusters.assign(texts)[0] != exact).sum())} of {len(texts)} ids differ from float64's (K 16)")


def time_mapped(number: int, num_clusters: int, starts: int, folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as made:
        file = Path(made) / "points.npy"
        make_points(number, file)
        points = np.load(file, mmap_mode="r")
        wall, cpu = time.perf_counter(), time.process_time()
        found = kmeans.fit(points, num_clusters, n_init=starts, progress=True)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        size = f"{number:,} x {_DIM} memory-mapped, K {num_clusters}, best of {starts}"
        print(f"\n{size}: {cpu:.1f} s of processor time, {wall:.1f} s, {found.iterations} iterations,")
        peak = traced_mib(lambda: kmeans.fit(points, num_clusters, n_init=1))
        print(f"inertia {found.inertia:,.1f}; {peak:.0f} MiB of memory with one start")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=PARTS, nargs="+", default=PARTS[:3])
    parser.add_argument("--points", type=int, default=50_000, help="points of the k-means")
    parser.add_argument("--clusters", type=int, default=64)
    parser.add_argument("--starts", type=int, default=4)
    parser.add_argument("--nearest", type=int, default=50_000, help="points whose nearest centroid is looked for")
    parser.add_argument("--sentences", type=int, default=300)
    parser.add_argument("--mapped", type=int, default=1_000_000, help="points in the memory-mapped file")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="where that file is made")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(machine())
    if "kmeans" in args.only:
        compare_kmeans(args.points, args.clusters, max(args.rounds - 2, 1), args.starts)
    if "nearest" in args.only:
        compare_nearest(args.nearest, args.clusters, args.rounds)
    if "encoding" in args.only:
        compare_encoding(args.sentences, max(args.rounds - 1, 1))
    if "mapped" in args.only:
        time_mapped(args.mapped, args.clusters, args.starts, args.folder)


if __name__ == "__main__":
    main()
