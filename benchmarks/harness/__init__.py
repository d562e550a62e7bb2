"""Code that the benchmarks share: peers, measurements and synthetic datasets."""
