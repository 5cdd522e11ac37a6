"""Micro-benchmarks. The tests run each once, untimed, and check its answer; `make bench` times them."""
