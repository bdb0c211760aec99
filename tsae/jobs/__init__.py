"""The steps of the two jobs as plain functions on plain values: what the pipelines map, and tests call, without Beam."""
