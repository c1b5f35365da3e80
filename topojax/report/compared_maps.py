"""The atlas as a map beside PCA, UMAP and t-SNE of the same examples: what can be trusted, and where charts meet.

The other maps are fitted on the inputs of the split itself, without labels, once: coordinates are kept in the cache.
"""

import hashlib
import importlib.util
from collections.abc import Callable

import numpy as np

from topojax.report import regions
from topojax.report.block import Block, Note, Table
from topojax.report.embedding import Embedding
from topojax.report.facts import three
from topojax.scoring.map_quality import map_quality
from topojax.storage.runtime import cache_folder

FIRST = 2000
"""Examples that every map is made and measured of, the first of the split."""
LEAST = 50
"""Fewer examples are not mapped."""
COLUMNS = (
    ("trust, k = 5", 5, "trustworthiness"),
    ("trust, k = 12", 12, "trustworthiness"),
    ("continuity, k = 5", 5, "continuity"),
    ("continuity, k = 12", 12, "continuity"),
    ("neighbourhood hit, k = 12", 12, "hit"),
    ("5-NN", 5, "knn5"),
)


def table(embedding: Embedding) -> list[Block]:
    """Quality of the maps; area and overlap of each chart, and the error of the worst examples."""
    image, n = embedding.image[:FIRST], min(len(embedding.image), FIRST)
    if n < LEAST:
        return [Note(f"Fewer than {LEAST} examples: no map is compared with another.")]
    label = None if embedding.label is None else embedding.label[:FIRST]
    how = "labels trained the charts" if embedding.run.config.supervised.enabled else "no label in the map"
    rows = [_row(f"atlas ({how})", image, embedding.encoding.z_geo[:FIRST], label)]
    for name, make in MAPS.items():
        if name == "UMAP" and importlib.util.find_spec("umap") is None:
            rows.append((f"{name} (pip install 'topojax[maps]')", *["–"] * len(COLUMNS)))
            continue
        rows.append(_row(f"{name} (no label in the map)", image, _cached(name, make, image), label))
    caption = (
        f"Maps of the first {n} examples of the {embedding.evaluation.split} split. Trust and continuity use no label; "
        "neighbourhood hit and 5-NN compare with labels. The other maps are fitted on these examples themselves, the "
        "atlas has not seen them."
    )
    return [Table("maps", ("map", *(c[0] for c in COLUMNS)), rows, caption), *_charts(embedding)]


def _row(name: str, image: np.ndarray, z: np.ndarray, label: np.ndarray | None) -> tuple[str, ...]:
    found = {k: map_quality(image, z, label, k) for k in sorted({c[1] for c in COLUMNS})}
    cells = [found[k][key] for _, k, key in COLUMNS]
    return (name, *("–" if np.isnan(cell) else f"{cell:.3f}" for cell in cells))


def _charts(embedding: Embedding) -> list[Block]:
    if embedding.project(embedding.encoding.z_geo[:1]).shape[1] != 2:
        return []
    area, shared, error = regions.areas(embedding), regions.shared_mass(embedding), embedding.error
    rows = [
        (
            str(k),
            str(n),
            three(float(area[k])),
            three(float(shared[k])),
            three(float(error[embedding.chart == k].mean())),
        )
        for k, n in enumerate(embedding.population)
        if n
    ]
    worst = np.sort(error)[-max(1, len(error) // 100) :]
    caption = (
        "Every chart in use: its examples, the area of their hull in latent units squared, the share of its weight "
        f"that lies on examples that another chart claims too, and its error. The worst 1 % of all have a mean error "
        f"of {worst.mean():.3g}, the worst one {worst[-1]:.3g}; no label is used."
    )
    return [Table("regions", ("chart", "examples", "area", "overlap", "squared error"), rows, caption)]


def _cached(name: str, make: Callable[[np.ndarray], np.ndarray], image: np.ndarray) -> np.ndarray:
    """Coordinates of a map, from the cache where it has them for these very inputs."""
    key = hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest()[:24]
    folder = cache_folder("maps")
    path = None if folder is None else folder / f"{name}-{key}.npy"
    if path is not None and path.exists():
        try:
            found = np.load(path)
            if found.shape == (len(image), 2):
                return found
        except (OSError, ValueError):
            pass  # torn: made anew
    found = make(image).astype(np.float32)
    if path is not None:
        try:
            np.save(part := path.with_suffix(".part.npy"), found)
            part.replace(path)
        except OSError:
            pass  # a cache that cannot be written costs time, nothing else
    return found


def _pca(image: np.ndarray) -> np.ndarray:
    from sklearn.decomposition import PCA

    return PCA(2, random_state=0).fit_transform(image)


def _umap(image: np.ndarray) -> np.ndarray:
    import umap

    return np.asarray(umap.UMAP(n_components=2, random_state=0, n_jobs=1).fit_transform(image))


def _tsne(image: np.ndarray) -> np.ndarray:
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(image) - 1) / 3)
    return TSNE(2, perplexity=perplexity, init="pca", random_state=0).fit_transform(image)


MAPS: dict[str, Callable[[np.ndarray], np.ndarray]] = {"PCA, 2 components": _pca, "UMAP": _umap, "t-SNE": _tsne}
