"""Thin seams to the kernel: the only home of nftables, pyroute2, subprocess and tenacity."""
