"""From a cohort to batches: the flat batch, the order of batches, the data loader."""
