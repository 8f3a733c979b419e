"""What people may know of a model's clusters, from a `Predictor` or from a bundle."""

from statistics import fmean
from typing import TYPE_CHECKING

from llava_mocle.inference.explanation import NEAREST_INSTRUCTIONS
from llava_mocle.serving.backend import ClusterView

if TYPE_CHECKING:
    from llava_mocle.export.bundle import Routing
    from llava_mocle.inference import Predictor


def cluster_views(predictor: "Predictor") -> list[ClusterView]:
    """Those of a model that is routed by cluster; none for others."""
    model = predictor.cluster_model
    if predictor.router != "cluster" or model is None:
        return []
    sites = list(predictor.adapter.sites or [])
    gates, experts = predictor.model.base_model.clean_gates().float().cpu().max(dim=-1)
    views = []
    for cluster in range(model.num_clusters):
        gate = float(gates[cluster].mean())
        views.append(
            ClusterView(
                cluster,
                tuple(example.text for example in model.nearest_examples(cluster, NEAREST_INSTRUCTIONS)),
                dict(zip(sites, experts[cluster].tolist(), strict=True)),
                gate,
                1 - gate if predictor.adapter.universal_expert else None,
                float(model.counts[cluster]),
            )
        )
    return views


def bundle_views(routing: "Routing") -> list[ClusterView]:
    """Those of a bundle's clusters; none for a model that is routed by dataset."""
    if routing.router != "cluster":
        return []
    return [
        ClusterView(
            entry.cluster,
            entry.nearest[:NEAREST_INSTRUCTIONS],
            {site: experts[0] for site, experts in entry.experts.items() if experts},
            fmean(gates[0] for gates in entry.gates.values() if gates) if entry.gates else None,
            entry.universal_weight,
            entry.samples,
        )
        for entry in routing.clusters
    ]
