"""Measures pdreactor, side by side with another script for the same job. See bench/run."""
