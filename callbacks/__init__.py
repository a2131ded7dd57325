"""Lightning callbacks, loggers, a profiler and a checkpoint writer. Configs use full import paths."""
