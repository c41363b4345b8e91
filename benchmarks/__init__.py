"""Benchmarks: figures that are ratios or bytes, measured in one run, and the bars that they are held to."""
