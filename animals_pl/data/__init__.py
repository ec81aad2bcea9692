"""Images → batches."""
