"""MoCLE as a PEFT tuner. Once this package is imported, PEFT can create, save and load MoCLE adapters."""

from llava_mocle.adapter.collapse import collapse
from llava_mocle.adapter.config import MocleConfig
from llava_mocle.adapter.gated_mlp import MlpNames
from llava_mocle.adapter.layer import MocleLinear
from llava_mocle.adapter.model import MocleModel
from llava_mocle.adapter.model_routing import ROUTING_INPUTS
from llava_mocle.adapter.registration import register
from llava_mocle.adapter.routing import RoutingStatistics

register()

__all__ = ["ROUTING_INPUTS", "MlpNames", "MocleConfig", "MocleLinear", "MocleModel", "RoutingStatistics", "collapse"]
