"""What saving, verifying, restoring and finding cost, beside the disk's own speed and what others do."""
