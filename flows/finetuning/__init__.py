"""Fine-tuning jobs and audits."""
