"""The measuring library: seeded scenarios, one load generator, the servers it drives, and the report."""
