"""Benchmarks: seeded scenarios, a load generator, the servers it drives, and the report."""
