"""The worker processes of one gateway."""
