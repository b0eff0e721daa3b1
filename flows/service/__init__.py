"""Everything that knows Prefect: flows, forms, artifacts, deployments, submission."""
