"""Records of runs, and what is made from them: summaries, tables, reports and figures. Torch-free."""
