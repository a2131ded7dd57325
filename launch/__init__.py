"""From the command line to a job. Nothing here imports torch at module level."""
