"""Fine-tuning: the loop, its optimizer, checkpoints and run folders."""
