"""Speed relative to a bare loop, the usual way, and other libraries. Each script has ``--help``."""
