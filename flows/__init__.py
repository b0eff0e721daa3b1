"""Connect: load, compute, save; as plain steps, as Prefect jobs, and from the command line."""
