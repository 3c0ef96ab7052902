"""Valid (padding-free) NASNet-A: genotype, cells, network and the plan that configures them."""

from slidescan.nasnet.network import Network
from slidescan.nasnet.plan import Plan

__all__ = ["Network", "Plan"]
