"""What people may know of a model's clusters, from a loaded model or from a bundle."""

from statistics import fmean
from typing import TYPE_CHECKING

from llava_mocle.inference.explanation import NEAREST_INSTRUCTIONS
from llava_mocle.serving.backend import ClusterView

if TYPE_CHECKING:
    from llava_mocle.export.bundle import ClusterEntry, Routing
    from llava_mocle.inference import Predictor


def model_views(predictor: "Predictor") -> list[ClusterView]:
    """Those of a model that is routed by cluster; none for others."""
    from llava_mocle.export.routing import cluster_entry

    if predictor.router != "cluster" or predictor.cluster_model is None:
        return []
    clusters = range(predictor.cluster_model.num_clusters)
    return [_view(cluster_entry(predictor.loaded, cluster)) for cluster in clusters]


def bundle_views(routing: "Routing") -> list[ClusterView]:
    """Those of a bundle's clusters; none for a model that is routed by dataset."""
    return [_view(entry) for entry in routing.clusters] if routing.router == "cluster" else []


def _view(entry: "ClusterEntry") -> ClusterView:
    strongest = [gates[0] for gates in entry.gates.values() if gates]
    return ClusterView(
        entry.cluster,
        tuple(entry.nearest[:NEAREST_INSTRUCTIONS]),
        {site: experts[0] for site, experts in entry.experts.items() if experts},
        round(fmean(strongest), 6) if strongest else None,
        entry.universal_weight,
        entry.samples,
    )
