"""Networks that classify patches: valid NASNet-A, a plain valid baseline, and padded ones."""

from slidescan.networks.network import Network
from slidescan.networks.plan import AnyPlan, Plan

__all__ = ["AnyPlan", "Network", "Plan"]
