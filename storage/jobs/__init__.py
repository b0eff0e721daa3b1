"""Fine-tuning jobs: their folders and checkpoints."""
