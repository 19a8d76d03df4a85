"""Tests that need what the kernel of a build machine may lack (sit, dummy): in a guest."""
