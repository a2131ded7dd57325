"""Lightning callbacks, loggers, a profiler and a checkpoint writer. Configs name them by their full path."""
