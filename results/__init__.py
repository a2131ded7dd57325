"""Records of runs, and summaries, tables, reports and figures made from them. Nothing here imports torch."""
