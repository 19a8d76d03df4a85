"""A test network on one machine, used by the namespace tests, the demo and the benchmarks."""

from .count import Count
from .lab import FlowReport, Lab, NewFlows, RunningFlow, Sent, Sniffer
from .process import CommandError, LabError, Process
from .servers import Kea, Pool
from .topology import INTERNAL, POOLS, SERVER

__all__ = [
    "INTERNAL",
    "POOLS",
    "SERVER",
    "CommandError",
    "Count",
    "FlowReport",
    "Kea",
    "Lab",
    "LabError",
    "NewFlows",
    "Pool",
    "Process",
    "RunningFlow",
    "Sent",
    "Sniffer",
]
