"""Ratios against a bare loop, the usual way, and the peers. Each script has ``--help``."""
